"""What a round of growth decides: how deep, how wide, and which morphisms."""

from gngraph.search.strategy import Strategy

__all__ = ["Strategy"]
