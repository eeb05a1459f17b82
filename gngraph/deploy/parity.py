"""Whether a file that was written computes what its network does: both are run on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gngraph.errors import GnGraphError
from gngraph.ir import BATCH, Graph
from gngraph.lowering.probe import probe_of

Batch = tuple[Tensor, ...]
"""A tensor for each input of a graph, in their order."""

Run = Callable[[Batch], Sequence[Tensor]]
"""What a file computes: all tensors that it returns, in order, on the CPU."""


@dataclass(frozen=True)
class Parity:
    """How far a file is from its network.

    Attributes:
        max_abs_difference: largest absolute difference of an output to torch, over all batches.
        max_abs_output: largest absolute output of torch, over all batches.
        batches: batch sizes that were compared.
    """

    max_abs_difference: float
    max_abs_output: float
    batches: tuple[int, ...]


def random_inputs(graph: Graph, count: int) -> Batch:
    """Inputs with `count` samples: numbers from a normal distribution, and whole numbers that the network's tables have."""
    return probe_of(graph, seed=count, samples=count, dtype=None)


def count_of(graph: Graph, batch: Batch) -> int:
    """Samples of a batch."""
    sizes = (
        size
        for name, x in zip(graph.inputs, batch, strict=True)
        for size in zip(graph.nodes[name].shape, x.shape, strict=True)
    )
    return next((size for dim, size in sizes if dim == BATCH), 1)


def running(module: nn.Module) -> Run:
    """What a module computes, as a file would be asked.

    Args:
        module: in the mode that is meant.
    """

    def run(batch: Batch) -> list[Tensor]:
        with torch.no_grad():
            return tensors(module(*batch))

    return run


def compared(graph: Graph, what: str, found: Run, wanted: Run, batches: Sequence[Batch], tolerance: float) -> Parity:
    """The parity of two over all batches.

    Args:
        graph: the network, for messages.
        what: the file, for messages.
        found: what it computes.
        wanted: what the network computes.
        batches: inputs.
        tolerance: largest difference, divided by the largest absolute output of the batch; 0: bit for bit.

    Raises:
        GnGraphError: shapes or numbers differ.
    """
    worst = largest = 0.0
    for batch in batches:
        expected, given = wanted(batch), found(batch)
        if [tuple(t.shape) for t in given] != [tuple(t.shape) for t in expected]:
            raise GnGraphError(
                f"{what} of graph '{graph.name}' gives other shapes for a batch of {count_of(graph, batch)}"
            )
        for a, b in zip(given, expected, strict=True):
            difference, size = _largest(a.double() - b.double()), _largest(b.double())
            if not difference <= tolerance * size:
                raise GnGraphError(
                    f"{what} of graph '{graph.name}' differs from it by {difference:.3g} for a batch of {count_of(graph, batch)}, "
                    f"which is more than {tolerance:g} of its largest output {size:.3g}"
                )
            worst, largest = max(worst, difference), max(largest, size)
    return Parity(worst, largest, tuple(count_of(graph, batch) for batch in batches))


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def tensors(value: Any) -> list[Tensor]:
    """All tensors that a network returns, in order.

    Args:
        value: a tensor, or tuples, lists and dictionaries of them.
    """
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors(item)]
