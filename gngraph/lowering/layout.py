"""How images lie in memory while a graph runs over many of them."""

from __future__ import annotations

import torch

from gngraph.ir import Graph, Node, TensorType


def layout_of(graph: Graph) -> torch.memory_format:
    """The layout in which the samples that `graph` reads are to be handed to it.

    Channels last, which every op keeps from the first convolution on: on a CPU training takes .8 to .95 of its time so where
    layers are narrow, .4 to .7 with depthwise convolutions, and 1.0 to 1.1 where they are wide, as in a whole VGG-11
    (`tools/bench_cost.py`). Left as it is where samples are no images, and where
    a node may depend on what lies where in memory: a `view`, which refuses values that are out of order, or a foreign op.

    >>> from gngraph import from_torch
    >>> layout_of(from_torch(torch.nn.Conv2d(3, 8, 3), torch.zeros(2, 3, 8, 8)))
    torch.channels_last
    """
    kinds = [graph.nodes[name].type for name in graph.inputs]
    images = all(isinstance(kind, TensorType) and len(kind.shape) == 4 for kind in kinds)
    free = images and not any(_depends_on_order(node) for node in graph.nodes.values())
    return torch.channels_last if free else torch.preserve_format


def _depends_on_order(node: Node) -> bool:
    return node.op == "foreign" or node.attrs.get("method") == "view"
