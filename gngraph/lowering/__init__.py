"""From the graph to torch: modules, and how samples lie in memory for them."""

from gngraph.lowering.to_torch import Lowered, lower, run, to_torch

__all__ = ["Lowered", "lower", "run", "to_torch"]
