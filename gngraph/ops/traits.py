"""What an op is, beside its rules: claims of its `OpSpec` that analyses rely on, each held against numbers by the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gngraph.ir import Node

Claim = Callable[[Node, frozenset[int]], bool]
"""Whether something is true of a node with regard to its inputs at some positions."""


Start = Callable[[Node, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Gives a parameter its initial values: of a node that reads it, the parameter (in place), and the node's weight (the parameter
itself where there is none). None: they cannot be known from that. Random numbers are those of torch's global state."""


VALUE = -1
"""Stands in a factor of a number of multiplications, among the inputs of a node, for the value that it gives."""


def no_padding(node: Node) -> int | None:
    """For ops of whose weight every entry is learned."""
    return None


def no_products(operands: object) -> tuple[()]:
    """For ops that multiply values by weights only."""
    return ()


def of_each(node: Node, positions: frozenset[int]) -> bool:
    """True of one input at a time, as products are linear."""
    return len(positions) <= 1


def of_first(node: Node, positions: frozenset[int]) -> bool:
    """True of the first input alone."""
    return positions <= {0}


def with_first(node: Node, positions: frozenset[int]) -> bool:
    """True wherever it is true of the first input, as functions that keep its entries keep their sign."""
    return 0 in positions


def with_all(node: Node, positions: frozenset[int]) -> bool:
    """True where it is true of every input and every number, as sums and products of what is not negative are not."""
    numbers = [value for key, value in node.attrs.items() if key.startswith("literal")]
    return len(positions) == len(node.inputs) and all(isinstance(n, int | float) and n >= 0 for n in numbers)


@dataclass(frozen=True)
class BatchStatistics:
    """An op that normalises each entry of its channel axis by statistics over all other axes.

    In train mode these are the statistics of the batch, and the node's module moves the running ones towards them by its
    attribute `momentum`; in eval mode they are the running ones, or where the node has none those of the batch as well. Its
    value is exactly (x - mean) / sqrt(variance + eps) * scale + shift.

    Attributes:
        mean, variance: roles of the running statistics.
        scale, shift: roles of what is multiplied and added behind, where the node has them.
        eps: name of the attribute.
    """

    mean: str = "running_mean"
    variance: str = "running_var"
    scale: str = "weight"
    shift: str = "bias"
    eps: str = "eps"

    def run(self, node: Node) -> bool:
        """Whether a node has running statistics, by which it normalises in eval mode."""
        return self.mean in node.params

    def of_batch(self, node: Node) -> bool:
        """Whether a node normalises by the batch in train mode."""
        return node.attrs.get("training") is not False


@dataclass(frozen=True)
class ChannelStatistics:
    """An op that takes statistics over entries of an axis that may hold channels, whichever channels there are.

    A norm gives (x - mean) / sqrt(variance + eps) * scale + shift, with mean and variance over its last axis, or over all but that
    of the samples; one that is not centred takes 0 for the mean. Any other op reduces its axes to the statistic itself: a mean,
    a sum, a variance or its root, a p-norm, or an extremum, which it takes over one axis.

    Attributes:
        norm: whether it is a norm.
        centred: whether a norm takes the mean off.
        whole: whether a norm takes its statistics over all axes but that of the samples, with its channels along axis 1.
        scale, shift: roles of what a norm multiplies and adds, where the node has them.
        eps: name of a norm's attribute; None in it is the smallest step of the dtype.
        power: 2 where what is reduced to is a variance, with the attribute "correction", 1 where it is the root of one, else 0.
        total: whether what is reduced to is a sum.
        order: name of the attribute that is the p of a p-norm; "" where it is none.
        extremum: 1 where what is reduced to is the largest entry, -1 where it is the smallest, else 0.
    """

    norm: bool = True
    centred: bool = True
    whole: bool = False
    scale: str = "weight"
    shift: str = "bias"
    eps: str = "eps"
    power: int = 0
    total: bool = False
    order: str = ""
    extremum: int = 0

    def order_of(self, node: Node) -> float | None:
        """The p of a p-norm that goes by sums, whichever entries there are; None for any other."""
        order = {"fro": 2.0}.get(str(node.attrs.get(self.order)), node.attrs.get(self.order))
        return float(order) if isinstance(order, int | float) and 0 < order < math.inf else None

    def axes(self, node: Node, rank: int) -> tuple[int, ...]:
        """The axes of a node's first input, of `rank` axes, over which it takes statistics, sorted."""
        dim = (range(1, rank) if self.whole else -1) if self.norm else node.attrs["dim"]
        dims = range(rank) if dim in (None, ()) else (dim,) if isinstance(dim, int) else dim
        return tuple(sorted(int(d) % rank for d in dims))


@dataclass(frozen=True)
class ComputedWeight:
    """A layer whose weight is computed from its parameter "weight" and those beside it.

    Attributes:
        plain: the same layer as one that multiplies by its parameter itself.
        weight: what it multiplies by: of a node, and its parameters by role.
        parameters: what gives another weight, by role: of a node, that weight, the parameters before, each with the filters that
            there are now, and what has become of the entries of "weight" by themselves. Roles that the node has not are
            buffers to be added.
        shared: roles of parameters that all filters share.
        centred: whether filters have no mean.
    """

    plain: Callable[[Node], Node]
    weight: Callable[[Node, Mapping[str, torch.Tensor]], torch.Tensor]
    parameters: Callable[[Node, torch.Tensor, Mapping[str, torch.Tensor], torch.Tensor], dict[str, torch.Tensor]]
    shared: frozenset[str] = frozenset()
    centred: bool = False
