"""How images lie in memory while a graph runs over many of them."""

from __future__ import annotations

import torch

from gngraph.ir import Graph, Node, TensorType
from gngraph.ir.inputs import of_samples
from gngraph.ops.rules import spread

NARROW = 16
"""Channels below which oneDNN computes wrong weight gradients, or writes where it must not, for a 1x1 convolution that strides over
channels last (uxlfoundation/oneDNN#6035): 8 with AVX2, 16 with AVX-512."""


def layout_of(graph: Graph) -> torch.memory_format:
    """The layout in which the samples that `graph` reads are to be handed to it.

    Channels last, which every op keeps from the first convolution on: on a CPU training takes less time so where layers are narrow,
    and hardly more where they are wide (docs/results.md#layout). Left as it is where samples are no images, where a node may
    depend on what lies where in memory (a `view`, which refuses values that are out of order, or a foreign op), and where a 1x1
    convolution reads fewer than `NARROW` channels in steps of more than one position.

    >>> from gngraph import from_torch
    >>> layout_of(from_torch(torch.nn.Conv2d(3, 8, 3), torch.zeros(2, 3, 8, 8)))
    torch.channels_last
    """
    kinds = [graph.nodes[name].type for name in of_samples(graph)]
    images = all(isinstance(kind, TensorType) and len(kind.shape) == 4 for kind in kinds)
    free = images and not any(
        _depends_on_order(node) or _strides_over_few(graph, node) for node in graph.nodes.values()
    )
    return torch.channels_last if free else torch.preserve_format


def _depends_on_order(node: Node) -> bool:
    return node.op == "foreign" or node.attrs.get("method") == "view"


def _strides_over_few(graph: Graph, node: Node) -> bool:
    """Whether a node is a convolution, or a transposed one, of the sort that `NARROW` is about."""
    if "stride" not in node.attrs or "weight" not in node.params:
        return False
    shape = graph.params[node.params["weight"]].data.shape
    return shape[2:] == (1, 1) and shape[1] < NARROW and max(spread(node.attrs["stride"], 2)) > 1
