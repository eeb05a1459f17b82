"""How parameters start: their initial values, by what an op does with them, as the module of torch that is the op draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from gngraph.ir import Node
from gngraph.ops.traits import Start


def alike(value: float) -> Start:
    """All entries are `value`."""
    return lambda node, values, weight: values.fill_(value)


def within(fan_in: Callable[[Node, torch.Tensor], int]) -> Start:
    """Uniform between the negative and the positive of 1 / sqrt(fan in), as `nn.Linear` draws its weight and its bias.

    Args:
        fan_in: of a node and its weight: how many products make up an entry of the value.
    """

    def start(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        bound = 1 / math.sqrt(max(1, fan_in(node, weight)))
        return values.uniform_(-bound, bound)

    return start


def convolved(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """He's normal rule (fan out) for kernels over maps, as seeds have it; for others and for biases uniform, as torch has it.

    Args:
        node: reads the parameter.
        values: the parameter, which is drawn in place.
        weight: of the node.
    """
    if values is weight and weight.dim() == 4:
        return nn.init.kaiming_normal_(values, mode="fan_out", nonlinearity="relu")
    return within(lambda node, weight: weight[0].numel())(node, values, weight)


def looked_up(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Normal; zero in the row that stands for no entry.

    Args:
        node: reads the parameter.
        values: the parameter, which is drawn in place.
        weight: of the node.
    """
    values.normal_()
    if node.attrs["padding_idx"] is not None:
        values[node.attrs["padding_idx"]] = 0.0
    return values


def added(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Zeros, as a shift starts; a table, such as that of positions, is normal with the deviation that it has.

    Args:
        node: reads the parameter.
        values: the parameter, which is drawn in place.
        weight: of the node.
    """
    return values.normal_(0.0, float(values.std())) if _is_table(values) else values.zero_()


def multiplied(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """A scale: alike in all channels, of the mean size that it has (1 in a norm, little before a sum); a table is none.

    Args:
        node: reads the parameter.
        values: the parameter, which is drawn in place.
        weight: of the node.
    """
    if _is_table(values):
        return None
    sign = -1.0 if float(values.sum()) < 0 else 1.0
    return values.fill_(sign * float(values.abs().mean()))


def _is_table(values: torch.Tensor) -> bool:
    return sum(size > 1 for size in values.shape) > 1


OF_OPERAND = "operand"
"""Stands among the roles of `OpSpec.starts` for an input that is a raw parameter."""

OF_NORM: Mapping[str, Start] = {
    "weight": alike(1.0),
    "bias": alike(0.0),
    "running_mean": alike(0.0),
    "running_var": alike(1.0),
}
"""Of scale, shift and statistics."""


def of_layer(start: Start) -> Mapping[str, Start]:
    """Of weight and bias alike."""
    return {"weight": start, "bias": start}
