"""Gauss-Newton scoring of morphisms, and the selection of sets."""
