"""Cost of a network in parameters and FLOPs, as a polynomial in the widths of its channel spaces, and budgets on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.ops import lookup, operands_of
from gngraph.ops.sizes import factors
from gngraph.ops.spec import Factor
from gngraph.ops.traits import VALUE


@dataclass(frozen=True)
class Cost:
    """What a network, or a change of one, costs.

    Attributes:
        params: entries of all nn.Parameters.
        flops: of one sample, of which a multiply-add is two (see `cost`).
        nanoseconds: that are predicted of a batch, where a `Clock` tells them; else 0.
    """

    params: int
    flops: int
    nanoseconds: int = field(default=0, repr=False)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.flops + other.flops, self.nanoseconds + other.nanoseconds)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.params - other.params, self.flops - other.flops, self.nanoseconds - other.nanoseconds)


class PricedTime(Protocol):
    """The time of a network as a function of the widths of its channel spaces, in nanoseconds."""

    def of(self, widths: Mapping[str, int]) -> int:
        """At the widths."""
        ...

    def change(self, space: str, widths: Mapping[str, int], delta: int) -> int:
        """What more channels add to it.

        Args:
            space: that gets them.
            widths: before, of every space, by name.
            delta: channels more; fewer where negative.
        """
        ...

    def neighbours(self, space: str) -> frozenset[str]:
        """The spaces on whose widths that depends, beside the space itself."""
        ...


class Clock(Protocol):
    """Tells how long networks take; `gngraph.latency` has one."""

    def of(self, graph: Graph, spaces: ChannelSpaces) -> PricedTime:
        """The time of a network with these spaces."""
        ...


def positions_of(graph: Graph, node: str) -> tuple[Factor, ...]:
    """How often each entry of the node's weight is multiplied for one sample; (0,) for nodes without a weight."""
    entry = graph.nodes[node]
    operands = operands_of(entry, tuple(graph.nodes[i].type for i in entry.inputs), graph.params)
    return lookup(entry.op).positions(operands, entry.type)


def uses_of(graph: Graph, node: str) -> int:
    """How often a node uses each entry of its weight for one sample: at as many positions it works; 0 without a weight.

    >>> import torch
    >>> from gngraph import from_torch
    >>> graph = from_torch(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()), torch.zeros(2, 1, 8, 6))
    >>> [uses_of(graph, name) for name in graph.nodes]
    [0, 24, 0]
    """
    return _count(graph, node, positions_of(graph, node)) if "weight" in graph.nodes[node].params else 0


def products_of(graph: Graph, node: str) -> tuple[tuple[Factor, ...], ...]:
    """The products of values with values that a node computes for one sample."""
    entry = graph.nodes[node]
    operands = operands_of(entry, tuple(graph.nodes[i].type for i in entry.inputs), graph.params)
    return lookup(entry.op).products(operands)


def _size(graph: Graph, node: str, factor: Factor) -> int:
    if isinstance(factor, int):
        return factor
    if isinstance(factor[0], str):
        return graph.params[graph.nodes[node].params[factor[0]]].data.shape[factor[1]]
    return factors(graph.nodes[_of(graph, node, factor[0])].shape[factor[1]])[0]


def _of(graph: Graph, node: str, place: int) -> str:
    """The input of a node at a place, or the node itself."""
    return node if place == VALUE else graph.nodes[node].inputs[place]


def _count(graph: Graph, node: str, product: tuple[Factor, ...]) -> int:
    return math.prod(_size(graph, node, factor) for factor in product)


def multiply_adds_of(graph: Graph, node: str) -> int:
    """Multiply-adds of a node for one sample."""
    products = sum(_count(graph, node, product) for product in products_of(graph, node))
    weight = graph.nodes[node].params.get("weight")
    return products + (uses_of(graph, node) * graph.params[weight].data.numel() if weight is not None else 0)


def cost(graph: Graph) -> Cost:
    """Cost of `graph`.

    FLOPs are two for each multiply-add of convolutions, linear layers, products of matrices and attention, whether their
    weights are parameters or computed, as torch.utils.flop_counter counts them on one sample; norms, activations, pooling and
    biases count nothing in either. gngraph also counts what torch has no formula for (products with vectors, bilinear forms,
    distances, deformable convolutions), recurrent layers on every device, and axes of length 1 that an einsum sums over.
    """
    return Cost(graph.num_params(), 2 * sum(multiply_adds_of(graph, node) for node in graph.nodes))


_Axis = tuple[int, tuple[tuple[str, int], ...]]
"""A size: a constant, and entries a channel of some spaces."""


@dataclass(frozen=True)
class _Term:
    """One parameter, or product of values: the product of its axes, each a constant plus entries a channel of some spaces."""

    params: int
    flops: int
    axes: tuple[_Axis, ...]

    def size(self, widths: Mapping[str, int]) -> int:
        """At the widths."""
        return math.prod(const + sum(inner * widths[name] for name, inner in parts) for const, parts in self.axes)

    def change(self, widths: Mapping[str, int], space: str, delta: int) -> int:
        """By how much the size grows with `delta` channels more of `space`."""
        before = after = 1
        for const, parts in self.axes:
            size, step = const, 0
            for name, inner in parts:
                size += inner * widths[name]
                if name == space:
                    step += inner * delta
            before *= size
            after *= size + step
        return after - before


def _entries(graph: Graph, spaces: ChannelSpaces, node: str, factor: Factor) -> tuple[tuple[str, int], ...]:
    """The spaces that a factor grows with, each with its entries a channel."""
    if isinstance(factor, int):
        return ()
    what, axis = factor
    if isinstance(what, str):
        held = spaces.axes.get((graph.nodes[node].params[what], axis), ())
        return tuple((space, slot.inner) for space, slot in held)
    layout = spaces.layouts.get((_of(graph, node, what), axis), ())
    return tuple((space, inner) for space, _, inner in layout)


class CostModel:
    """Cost of a graph as a function of the widths of its channel spaces; no graph is built to evaluate it.

    Args:
        graph: the network.
        spaces: of it.
        clock: tells nanoseconds; None: they are 0.

    >>> import torch, gngraph
    >>> from gngraph.analysis.channels import ChannelSpaces
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = gngraph.from_torch(net, torch.zeros(1, 4))
    >>> model = CostModel(graph, ChannelSpaces.of(graph))
    >>> model.marginal("0", model.widths)
    Cost(params=7, flops=12)
    """

    def __init__(self, graph: Graph, spaces: ChannelSpaces, clock: Clock | None = None) -> None:
        self._time = None if clock is None else clock.of(graph, spaces)
        self.widths: dict[str, int] = {space.name: space.size for space in spaces}
        self._layouts = spaces.layouts
        self._reads = {node.name: node.inputs for node in graph.nodes.values()}
        self._terms: list[_Term] = []
        self._of_space: dict[str, list[_Term]] = {name: [] for name in self.widths}
        for name, parameter in graph.params.items():
            axes: list[_Axis] = []
            for axis, length in enumerate(parameter.data.shape):
                entries = tuple((s, slot.inner) for s, slot in spaces.axes.get((name, axis), ()))
                axes.append((length - sum(inner * self.widths[s] for s, inner in entries), entries))
            flops = 0
            for node, role in graph.readers(name):
                positions = positions_of(graph, node) if role == "weight" else (0,)
                if all(isinstance(factor, int) for factor in positions):
                    flops += 2 * _count(graph, node, positions)
                else:
                    self._add(_Term(0, 2, (*axes, *self._axes(graph, spaces, node, positions))))
            if parameter.kind == "parameter" or flops:
                self._add(_Term(int(parameter.kind == "parameter"), flops, tuple(axes)))
        for node in graph.nodes:
            for product in products_of(graph, node):
                self._add(_Term(0, 2, self._axes(graph, spaces, node, product)))

    def _axes(self, graph: Graph, spaces: ChannelSpaces, node: str, product: tuple[Factor, ...]) -> tuple[_Axis, ...]:
        axes: list[_Axis] = []
        for factor in product:
            entries = _entries(graph, spaces, node, factor)
            covered = sum(inner * self.widths[space] for space, inner in entries)
            axes.append((_size(graph, node, factor) - covered, entries))
        return tuple(axes)

    def _add(self, term: _Term) -> None:
        self._terms.append(term)
        for space in {s for _, parts in term.axes for s, _ in parts}:
            self._of_space[space].append(term)

    def of(self, widths: Mapping[str, int]) -> Cost:
        """Cost at the given widths; O(#parameters)."""
        sizes = [(term, term.size(widths)) for term in self._terms]
        time = 0 if self._time is None else self._time.of(widths)
        return Cost(sum(t.params * n for t, n in sizes), sum(t.flops * n for t, n in sizes), time)

    def marginal(self, space: str, widths: Mapping[str, int], delta: int = 1) -> Cost:
        """Cost of `delta` more channels of `space` at the given widths; O(#parameters of the space).

        Args:
            space: name of the one that grows.
            widths: of all spaces, by name; the marginal cost depends on those beside it.
            delta: channels more; fewer where negative.
        """
        changes = [(t, t.change(widths, space, delta)) for t in self._of_space[space]]
        time = 0 if self._time is None else self._time.change(space, widths, delta)
        return Cost(sum(t.params * n for t, n in changes), sum(t.flops * n for t, n in changes), time)

    def neighbours(self, space: str) -> frozenset[str]:
        """The spaces whose marginal cost depends on the width of `space`, itself among them."""
        priced = frozenset(name for term in self._of_space[space] for _, parts in term.axes for name, _ in parts)
        return priced if self._time is None else priced | self._time.neighbours(space)

    def within(self, value: str) -> frozenset[str]:
        """The spaces whose channels lie in a value, on whichever axis."""
        axes = (segments for (node, _), segments in self._layouts.items() if node == value)
        return frozenset(name for segments in axes for name, _, _ in segments)

    def around(self, node: str) -> frozenset[str]:
        """The spaces whose channels lie in a node's value or in what it reads."""
        return self.within(node).union(*map(self.within, self._reads[node]))


@dataclass(frozen=True)
class Budget:
    """Largest cost that a network may have; None leaves a side open.

    Attributes:
        max_params, max_flops, max_nanoseconds: see `Cost`.
        clock: tells the nanoseconds, where they are bounded.
    """

    max_params: int | None = None
    max_flops: int | None = None
    max_nanoseconds: int | None = None
    clock: Clock | None = field(default=None, repr=False, compare=False, kw_only=True)

    @property
    def sides(self) -> tuple[int | None, ...]:
        """The bounds, in the order of `Cost`."""
        return (self.max_params, self.max_flops, self.max_nanoseconds)

    def model(self, graph: Graph, spaces: ChannelSpaces) -> CostModel:
        """What a network costs at any widths, in all that may be bounded.

        Args:
            graph: the network.
            spaces: of it.
        """
        return CostModel(graph, spaces, self.clock)

    def allows(self, cost: Cost) -> bool:
        """Whether `cost` lies within the budget."""
        return all(most is None or side <= most for side, most in zip(sides_of(cost), self.sides, strict=True))

    def share(self, change: Cost) -> float:
        """A change of cost as a share of the budget, all sides added; parameters count where nothing is bounded."""
        if self.sides == (None, None, None):
            return float(change.params)
        both = zip(sides_of(change), self.sides, strict=True)
        return sum(side / max(most, 1) for side, most in both if most is not None)

    @cached_property
    def text(self) -> str:
        """The budget in words."""
        sides = [(self.max_params, "parameters"), (self.max_flops, "FLOPs")]
        told = [f"{limit:,} {what}" for limit, what in sides if limit is not None]
        if self.max_nanoseconds is not None:
            told.append(f"{self.max_nanoseconds / NANOSECONDS:.4g} ms")
        return " and ".join(told) or "no limit"


NANOSECONDS = 10**6
"""Of a millisecond."""


def sides_of(cost: Cost) -> tuple[int, int, int]:
    """Parameters, FLOPs and nanoseconds."""
    return cost.params, cost.flops, cost.nanoseconds
