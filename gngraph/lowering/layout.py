"""How images lie in memory while a graph runs over many of them."""

from __future__ import annotations

import torch

from gngraph.ir import Graph, Node, TensorType
from gngraph.ir.inputs import of_samples
from gngraph.ops.conv import strides_over_few


def layout_of(graph: Graph) -> torch.memory_format:
    """The layout in which the samples that `graph` reads are to be handed to it, unless its weights are differentiated.

    Channels last, which every op keeps from the first convolution on: on a CPU runs take less time so where layers are narrow,
    and hardly more where they are wide (docs/results.md#layout). Left as it is where samples are no images, and where a node may
    depend on what lies where in memory (a `view`, which refuses values that are out of order, or a foreign op).

    >>> from gngraph import from_torch
    >>> layout_of(from_torch(torch.nn.Conv2d(3, 8, 3), torch.zeros(2, 3, 8, 8)))
    torch.channels_last
    """
    kinds = [graph.nodes[name].type for name in of_samples(graph)]
    images = all(isinstance(kind, TensorType) and len(kind.shape) == 4 for kind in kinds)
    free = images and not any(map(_depends_on_order, graph.nodes.values()))
    return torch.channels_last if free else torch.preserve_format


def training_layout_of(graph: Graph) -> torch.memory_format:
    """The layout in which the samples that `graph` is trained on are to be handed to it.

    That of `layout_of`, but for a 1x1 convolution which reads fewer than `NARROW` channels in steps of more than one position.
    """
    convolutions = (
        (node, graph.params[node.params["weight"]]) for node in graph.nodes.values() if "weight" in node.params
    )
    few = any("stride" in node.attrs and strides_over_few(node, weight.data.shape) for node, weight in convolutions)
    return torch.preserve_format if few else layout_of(graph)


def _depends_on_order(node: Node) -> bool:
    return node.op == "foreign" or node.attrs.get("method") == "view"
