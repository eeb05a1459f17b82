"""Gauss-Newton scoring of morphisms, and the selection of sets of them."""

from gngraph.scoring import proposers
from gngraph.scoring.gauss_newton import Candidate, GaussNewton, Moments, Scores
from gngraph.scoring.proposer import Context, Proposer
from gngraph.scoring.registry import register_proposer
from gngraph.scoring.selection import RULES, Selection, select

__all__ = [
    "RULES",
    "Candidate",
    "Context",
    "GaussNewton",
    "Moments",
    "Proposer",
    "Scores",
    "Selection",
    "proposers",
    "register_proposer",
    "select",
]
