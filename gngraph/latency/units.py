"""Timed units: a layer with the norm, activation and sum behind it, which runtimes compute as one, at any widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import GnGraphError
from gngraph.ir import Graph, Node, Parameter, Ref, TensorType
from gngraph.ir.types import with_integer
from gngraph.ops import lookup
from gngraph.ops.draft import draft_of

Extent = tuple[int, tuple[tuple[str, int], ...]]
"""The length of an axis: a constant, and entries a channel of some spaces."""


@dataclass(frozen=True, eq=False)
class TimedUnit:
    """Nodes that are timed together.

    Attributes:
        graph: the network.
        nodes: their names, in order.
        reads: values from outside.
        extents: every length that depends on widths, once.
        inputs: for each value of `reads` its shape; a length is a number, or -1 minus its place in `extents`.
        params: parameter -> its shape, alike.
        widths: (node, path) of each attribute that is such a length, with its place in `extents`.
    """

    graph: Graph
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    extents: tuple[Extent, ...]
    inputs: tuple[tuple[int | str, ...], ...]
    params: Mapping[str, tuple[int, ...]]
    widths: tuple[tuple[str, tuple[str | int, ...], int], ...]

    @property
    def spaces(self) -> frozenset[str]:
        """Names of the spaces whose widths its time depends on."""
        return frozenset(name for _, parts in self.extents for name, _ in parts)

    def lengths(self, widths: Mapping[str, int]) -> tuple[int, ...]:
        """The extents at some widths.

        Args:
            widths: of every space, by name.
        """
        return tuple(const + sum(inner * widths[name] for name, inner in parts) for const, parts in self.extents)

    def key(self, lengths: tuple[int, ...]) -> str:
        """What it computes, without names: units with one key take the same time.

        Args:
            lengths: of the extents.
        """
        numbers = {name: f"%{i}" for i, name in enumerate((*self.reads, *self.nodes))}
        given = zip(self.reads, self.inputs, strict=True)
        told = [f"{self._input(name, self._shape(shape, lengths)).type}" for name, shape in given]
        for name in self.nodes:
            node = self._at(self.graph.nodes[name], lengths)
            params = {role: (self.graph.params[p].kind, self._shape(self.params[p], lengths))
                      for role, p in node.params.items()}  # fmt: skip
            read = [numbers[value] for value in node.inputs]
            told.append(f"{node.op}{read}{dict(node.attrs)}{params}")
        return "; ".join((*told, f"-> {[numbers[name] for name in self.returns]}"))

    @property
    def returns(self) -> tuple[str, ...]:
        """The values that are read outside of it."""
        inside = set(self.nodes)
        outputs = set(self.graph.outputs)
        return tuple(n for n in self.nodes if n in outputs or not inside.issuperset(self.graph.users(n)))

    def at(self, lengths: tuple[int, ...]) -> Graph:
        """A network of these nodes alone, with values at random.

        Args:
            lengths: of the extents.

        Raises:
            GnGraphError: the op table does not take them so.
        """
        given = zip(self.reads, self.inputs, strict=True)
        nodes = {name: self._input(name, self._shape(shape, lengths)) for name, shape in given}
        generator = torch.Generator().manual_seed(0)
        params = {
            name: _random(self.graph.params[name], self._shape(shape, lengths), generator)
            for name, shape in self.params.items()
        }
        base = Graph("Unit", nodes, params, self.reads, Ref(self.reads[0]))
        draft = draft_of(base)
        for name in self.nodes:
            draft.add(self._at(replace(self.graph.nodes[name], scope=""), lengths))
        outputs = tuple(Ref(name) for name in self.returns)
        draft.set_output(outputs[0] if len(outputs) == 1 else outputs)
        return draft.commit()

    def _input(self, name: str, shape: tuple[Any, ...]) -> Node:
        type_ = self.graph.nodes[name].type
        assert isinstance(type_, TensorType)
        attrs = self.graph.nodes[name].attrs if self.graph.nodes[name].op == "input" else {}
        return Node(name, "input", type=TensorType(type_.dtype, shape), attrs=MappingProxyType(dict(attrs)))

    def _at(self, node: Node, lengths: tuple[int, ...]) -> Node:
        attrs = dict(node.attrs)
        for name, path, place in self.widths:
            if name == node.name:
                attrs[str(path[0])] = with_integer(attrs[str(path[0])], path[1:], lengths[place])
        return replace(node, attrs=MappingProxyType(attrs))

    @staticmethod
    def _shape(shape: tuple[int | str, ...], lengths: tuple[int, ...]) -> tuple[Any, ...]:
        return tuple(lengths[-1 - size] if isinstance(size, int) and size < 0 else size for size in shape)


def _random(parameter: Parameter, shape: tuple[int, ...], generator: torch.Generator) -> Parameter:
    """A parameter of another shape: small weights of either sign; factors and variances near 1."""
    if not parameter.data.is_floating_point():
        return replace(parameter, data=torch.zeros(shape, dtype=parameter.data.dtype), aliases=())
    data = torch.rand(shape, generator=generator)
    data = (data - 0.5) / 10 if len(shape) > 1 else data + 0.5
    return replace(parameter, data=data.to(parameter.data.dtype), aliases=())


class UntimedError(GnGraphError):
    """A unit cannot be taken out of its network."""


def timed_units(graph: Graph, spaces: ChannelSpaces) -> tuple[list[TimedUnit], list[str]]:
    """The units of a network, and the nodes that belong to none.

    A node that goes on from one value without a multiplication (a norm, an activation, a sum) joins the unit of that value, where
    nothing else reads it. What only looks at shapes takes no time, and is in neither.

    Args:
        graph: the network.
        spaces: of it.
    """
    units, left = list[TimedUnit](), list[str]()
    for nodes in _gathered(graph):
        try:
            units.append(_unit(graph, spaces, tuple(nodes)))
        except UntimedError:
            left += nodes
    return units, left


def _gathered(graph: Graph) -> list[list[str]]:
    groups: list[list[str]] = []
    group_of: dict[str, list[str]] = {}
    outputs, places = set(graph.outputs), {name: place for place, name in enumerate(graph.nodes)}
    for node in graph.nodes.values():
        spec = lookup(node.op)
        if node.op in ("input", "parameter") or spec.of_sizes or not isinstance(node.type, TensorType):
            continue
        before = [
            name
            for name in node.inputs
            if name in group_of
            and group_of[name][-1] == name
            and graph.users(name) == (node.name,)
            and name not in outputs
            and graph.nodes[name].shape == node.shape
        ]
        follows = spec.channelwise and spec.apply is None and not spec.rearranges and before
        group = group_of[max(before, key=places.__getitem__)] if follows else []
        if not follows:
            groups.append(group)
        group.append(node.name)
        group_of[node.name] = group
    return groups


def _unit(graph: Graph, spaces: ChannelSpaces, nodes: tuple[str, ...]) -> TimedUnit:
    sizes = {space.name: space.size for space in spaces}
    extents: list[Extent] = []
    inside = set(nodes)
    reads = tuple(dict.fromkeys(i for name in nodes for i in graph.nodes[name].inputs if i not in inside))
    if not reads or not all(isinstance(graph.nodes[name].type, TensorType) for name in reads):
        raise UntimedError(f"'{nodes[0]}' reads no tensor, or something that is none")

    def changing(parts: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((name, inner) for name, inner in parts if spaces[name].frozen is None)

    def length(size: int | str, parts: Iterable[tuple[str, int]]) -> int | str:
        parts = changing(parts)
        if isinstance(size, str) or not parts:
            return size
        extent = (size - sum(inner * sizes[name] for name, inner in parts), parts)
        if extent not in extents:
            extents.append(extent)
        return -1 - extents.index(extent)

    inputs = tuple(
        tuple(
            length(size, [(space, inner) for space, _, inner in spaces.layouts.get((name, axis), ())])
            for axis, size in enumerate(graph.nodes[name].shape)
        )
        for name in reads
    )
    params = {
        param: tuple(
            int(length(size, [(space, slot.inner) for space, slot in spaces.axes.get((param, axis), ())]))
            for axis, size in enumerate(graph.params[param].data.shape)
        )
        for name in nodes
        for param in graph.nodes[name].params.values()
    }
    widths = []
    for name in nodes:
        for measure in spaces.measures.get(name, ()):
            if measure.size is not None:
                raise UntimedError(f"'{name}' reads a size that the forward computes")
            parts = changing(measure.parts)
            extent = (measure.value(sizes) - sum(inner * sizes[space] for space, inner in parts), parts)
            if parts and extent not in extents:
                raise UntimedError(f"'{name}' holds a width that none of its axes has")
            if parts:
                widths.append((name, measure.path, extents.index(extent)))
    return TimedUnit(graph, nodes, reads, tuple(extents), inputs, params, tuple(widths))
