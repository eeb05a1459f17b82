"""From torch to the graph: tracing, types, and the proof that both compute the same."""

from gngraph.importing.from_torch import from_torch

__all__ = ["from_torch"]
