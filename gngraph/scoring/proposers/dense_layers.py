"""Linear algebra of a linear layer or convolution all of whose outputs read all of its inputs: patches, moments, other weights."""

from __future__ import annotations

import torch

from gngraph.ir import Node
from gngraph.ops import lookup


def apply_layer(layer: Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer without its bias for another weight.

    Args:
        layer: a linear layer or a convolution without groups.
        x: what it reads, batch first.
        weight: [out, in, *kernel] with any number of outputs.
    """
    apply = lookup(layer.op).apply
    assert apply is not None
    return apply(layer, x, weight)


def channel_axis(layer: Node) -> int:
    """Axis of the channels in the layer's input and value."""
    return lookup(layer.op).channel_axis


def rows_of(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """A value of a layer as [N, channels, positions]."""
    moved = value.movedim(channel_axis(layer), 1)
    return moved.reshape(*moved.shape[:2], -1)


def patches_of(layer: Node, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What each output position of a layer reads of `x`, [N, channels * kernel, positions], in the order of its weights.

    Args:
        layer: a linear layer or a convolution without groups.
        weight: of which the extent of the kernel is taken.
        x: what the layer reads, batch first.
    """
    if weight.dim() == 2:  # no kernel
        return rows_of(layer, x)
    size = weight[0, 0].numel()
    single = torch.eye(size).to(x).view(size, 1, *weight.shape[2:])
    taken = apply_layer(layer, x.flatten(0, 1).unsqueeze(1), single)
    return taken.reshape(len(x), x.shape[1] * size, -1)


def second_moment(layer: Node, factors: torch.Tensor) -> torch.Tensor:
    """Sum of v v^T over curvature factors, samples and positions, [channels, channels], for factors [R, N, ...]."""
    rows = rows_of(layer, factors.flatten(0, 1)).transpose(0, 1).flatten(1)
    return rows @ rows.T
