"""Gauss-Newton scoring of morphisms, and the selection of sets of them."""

from gngraph.scoring.gauss_newton import Candidate, GaussNewton, Moments, Scores
from gngraph.scoring.selection import RULES, Selection, select

__all__ = [
    "RULES",
    "Candidate",
    "GaussNewton",
    "Moments",
    "Scores",
    "Selection",
    "select",
]
