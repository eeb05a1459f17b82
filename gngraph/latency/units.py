"""Timed units: a layer with the norm, activation and sum behind it, which runtimes compute as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph, TensorType
from gngraph.ops import lookup
from gngraph.ops.sizes import factors

Extent = tuple[int, tuple[tuple[str, int], ...]]
"""The length of an axis: a constant, and entries a channel of some spaces."""


@dataclass(frozen=True, eq=False)
class TimedUnit:
    """Nodes that are timed together.

    Attributes:
        nodes: their names, in order.
        extents: every length that depends on widths, once.
        sizes: of the tensors that it reads, holds and writes, as the places of the extents that they are products of; each once.
        key: what it computes, without names and widths: units with one key take the same time at the same lengths.
    """

    nodes: tuple[str, ...]
    extents: tuple[Extent, ...]
    sizes: tuple[tuple[int, ...], ...]
    key: str

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


def timed_units(graph: Graph, spaces: ChannelSpaces) -> tuple[TimedUnit, ...]:
    """The units of a network.

    A node that goes on from one value without a multiplication (a norm, an activation, a sum) joins the unit of that value, where
    nothing else reads it. What only looks at shapes takes no time, and is in none.

    Args:
        graph: the network.
        spaces: of it.
    """
    return tuple(_unit(graph, spaces, tuple(nodes)) for nodes in _gathered(graph))


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
    widths = {space.name: space.size for space in spaces}
    extents: list[Extent] = []

    def length(size: int | str, parts: Iterable[tuple[str, int]]) -> int | str:
        """A length that always is the same, or -1 minus the place of its extent, which is of one sample."""
        free = tuple((name, inner) for name, inner in parts if spaces[name].frozen is None)
        if not free:
            return size
        extent = (factors(size)[0] - sum(inner * widths[name] for name, inner in free), free)
        if extent not in extents:
            extents.append(extent)
        return -1 - extents.index(extent)

    def value(name: str) -> tuple[int | str, ...]:
        parts = [spaces.layouts.get((name, axis), ()) for axis in range(len(graph.nodes[name].shape))]
        segments = [[(space, inner) for space, _, inner in own] for own in parts]
        return tuple(map(length, graph.nodes[name].shape, segments))

    def held(name: str) -> tuple[int | str, ...]:
        slots = [spaces.axes.get((name, axis), ()) for axis in range(graph.params[name].data.dim())]
        return tuple(
            map(length, graph.params[name].data.shape, [[(s, slot.inner) for s, slot in own] for own in slots])
        )

    inside = set(nodes)
    reads = tuple(dict.fromkeys(i for name in nodes for i in graph.nodes[name].inputs if i not in inside))
    numbers = {name: f"%{i}" for i, name in enumerate((*reads, *nodes))}
    shapes = [value(name) for name in reads if isinstance(graph.nodes[name].type, TensorType)]
    told = [str(shapes)]
    for name in nodes:
        node = graph.nodes[name]
        params = {role: held(param) for role, param in node.params.items()}
        shapes += [value(name), *params.values()]
        measured = {measure.path[0] for measure in spaces.measures.get(name, ())}
        attrs = {key: attr for key, attr in node.attrs.items() if key not in measured}
        told.append(f"{node.op}{[numbers[read] for read in node.inputs]}{attrs}{params}{value(name)}")
    sizes = [tuple(sorted(-1 - size for size in shape if isinstance(size, int) and size < 0)) for shape in shapes]
    return TimedUnit(nodes, tuple(extents), tuple(dict.fromkeys(size for size in sizes if size)), "; ".join(told))
