"""What a network takes: the shape of one sample, and samples to trace with."""

from __future__ import annotations

import torch

from gngraph.errors import DataError
from gngraph.ir.graph import Graph
from gngraph.ir.types import TensorType


def example(input_shape: tuple[int, ...]) -> torch.Tensor:
    """Two random samples to trace with, f32 [2, *input_shape]; always the same ones."""
    return torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))


def reads_tokens(graph: Graph) -> bool:
    """Whether the only input is of whole numbers."""
    types = [graph.nodes[name].type for name in graph.inputs]
    return len(types) == 1 and isinstance(types[0], TensorType) and types[0].dtype in ("i64", "i32", "u8")


def input_shape_of(graph: Graph) -> tuple[int, ...]:
    """Shape of one sample of the only input.

    Raises:
        DataError: there are several inputs, or sizes that are not fixed.
    """
    types = [graph.nodes[name].type for name in graph.inputs]
    if len(types) == 1 and isinstance(types[0], TensorType):
        sizes = types[0].shape[1:]
        if all(isinstance(size, int) for size in sizes):
            return tuple(int(size) for size in sizes)
    raise DataError(f"network '{graph.name}' has the inputs {types}; data sets are for networks with one tensor input")
