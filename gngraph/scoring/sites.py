"""Sites: where the effect of a morphism on a space is computed exactly, and behind which it is linearised.

A *split site* is a layer that writes the space, with the taps its values reach: outputs of the first non-linearities, or,
along a path without one, the edge into the next layer. A *read site* is an edge over which a layer reads the space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gngraph.analysis.channels import ChannelSpaces, Role, Slot
from gngraph.ir import Graph
from gngraph.ops import lookup

PRODUCTS = ("mul", "div")
"""Ops that are linear in each operand alone: a non-linearity where both operands change."""


@dataclass(frozen=True)
class Edge:
    """Node `reader` reads the value of node `value`. With reader "" the value itself, whoever reads it."""

    value: str
    reader: str = ""


@dataclass(frozen=True)
class Band:
    """The entries of a space on an axis of a value: channels start ... start + size * inner - 1."""

    axis: int
    start: int
    size: int
    inner: int


@dataclass(frozen=True)
class SplitSite:
    """A layer that writes a space.

    Attributes:
        space: name of the space.
        node: the layer.
        slot: the slot of its weight.
        segment: channelwise nodes from the layer (exclusive) to the taps (inclusive), in graph order.
        taps: edges at which the change is measured, each with the space's bands there.
        linear: no path meets a non-linearity, so a split gains exactly nothing.
    """

    space: str
    node: str
    slot: Slot
    segment: tuple[str, ...]
    taps: tuple[tuple[Edge, tuple[Band, ...]], ...]
    linear: bool


@dataclass(frozen=True)
class ReadSite:
    """An edge over which a layer reads a space, with the slot of the layer's weight."""

    space: str
    edge: Edge
    slot: Slot
    bands: tuple[Band, ...]


def split_sites(graph: Graph, spaces: ChannelSpaces) -> Iterator[SplitSite]:
    """Every layer that writes a free space by exactly one row a channel and whose weight no other node uses.

    O(#nodes) each. A layer that writes a space twice would move both rows of a channel at once, and is no site.
    """
    bands = _band_table(spaces)
    for space in spaces.free:
        for slot in space.slots:
            node = graph.nodes[slot.node]
            writes = slot.role is Role.PRODUCE or (slot.role is Role.FOLLOW and lookup(node.op).channelwise)
            if not writes or lookup(node.op).apply is None or node.params.get("weight") != slot.param:
                continue
            rows = sum(other.param == slot.param and other.axis == 0 for other in space.slots)
            if slot.axis != 0 or slot.inner != 1 or rows > 1 or len(graph.readers(slot.param)) > 1:
                continue
            yield _walk(graph, bands, space.name, slot)


def read_sites(graph: Graph, spaces: ChannelSpaces) -> Iterator[ReadSite]:
    """Every edge over which a layer reads a free space."""
    bands = _band_table(spaces)
    for space in spaces.free:
        for slot in space.slots:
            if slot.role is Role.CONSUME:
                for reader, _ in graph.readers(slot.param):
                    value = graph.nodes[reader].inputs[0]
                    own = tuple(b for b in bands[value, space.name] if b.start == slot.offset)
                    yield ReadSite(space.name, Edge(value, reader), slot, own)


def _band_table(spaces: ChannelSpaces) -> dict[tuple[str, str], tuple[Band, ...]]:
    table: dict[tuple[str, str], tuple[Band, ...]] = {}
    for (value, axis), segments in spaces.layouts.items():
        start = 0
        for name, size, inner in segments:
            table[value, name] = (*table.get((value, name), ()), Band(axis, start, size, inner))
            start += size * inner
    return table


def _walk(graph: Graph, bands: dict[tuple[str, str], tuple[Band, ...]], space: str, slot: Slot) -> SplitSite:
    moved, segment, taps, linear = {slot.node}, [], [], True
    order = list(graph.nodes)
    for name in order[order.index(slot.node) + 1 :]:
        node = graph.nodes[name]
        sources = [i for i in dict.fromkeys(node.inputs) if i in moved]
        if not sources or (slot.node, space) not in bands:
            continue
        spec = lookup(node.op)
        if not spec.channelwise or (name, space) not in bands:
            taps += [(Edge(source, name), bands[source, space]) for source in sources if (source, space) in bands]
            continue
        segment.append(name)
        product = node.op in PRODUCTS and sum(i in moved for i in node.inputs) > 1
        if spec.linear and not product:
            moved.add(name)
        else:
            linear = False
            taps.append((Edge(name), bands[name, space]))
    return SplitSite(space, slot.node, slot, tuple(segment), tuple(taps), linear)
