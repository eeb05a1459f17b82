"""Sites: where the effect of a morphism on a space is computed exactly, and behind which it is linearised.

A *split site* is a layer that writes the space, with the taps its values reach: outputs of the first non-linearities, or of
the pooling behind them that alone reads them, or, along a path without one, the edge into the next layer. A *read site* is
an edge over which a layer reads the space.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role, Slot
from gngraph.ir import Graph, Node, OpaqueType, TensorType, TupleType
from gngraph.ir.types import dtype_of
from gngraph.ops import lookup
from gngraph.ops.stepwise import OF_SEVERAL, OWN_STATE, PASSED_BY


@dataclass(frozen=True)
class Edge:
    """Node `reader` reads the value of node `value`. With reader "" the value itself, whoever reads it.

    A layer that reads its own state, step by step, reads a value "layer:role" that is no node's, with the role of its weight.
    """

    value: str
    reader: str = ""

    @property
    def of_state(self) -> bool:
        """Whether it is a layer's own state that is read, [N, T, channels]."""
        return ":" in self.value


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
        slots: the slots of its weight that hold the space's rows.
        segment: channelwise nodes from the layer (exclusive) to the taps (inclusive), in graph order.
        taps: edges at which the change is measured, each with the space's bands there.
        linear: no path meets a non-linearity, so a split gains exactly nothing.
        opaque: a node whose statistics count the channels, of which one copy alone goes on being counted; a product both sides
            of which the layer writes; or a node that is not linear in the space and mixes its channels, where no path meets a
            non-linearity that can be followed. There are no taps then.
    """

    space: str
    node: str
    slots: tuple[Slot, ...]
    segment: tuple[str, ...]
    taps: tuple[tuple[Edge, tuple[Band, ...]], ...]
    linear: bool
    opaque: str | None = None

    @property
    def slot(self) -> Slot:
        """The first of the slots."""
        return self.slots[0]

    def rows(self, channel: int) -> list[int]:
        """Rows of the weight that a channel owns."""
        return [
            row for s in self.slots for row in range(s.offset + channel * s.inner, s.offset + (channel + 1) * s.inner)
        ]


@dataclass(frozen=True)
class ReadSite:
    """An edge over which a layer reads a space, with the slot of the layer's weight; a band for each of its groups.

    A product that sums over a space reads one side of it by the weights that write the other: by the first of these, and the
    slots `beside`.
    """

    space: str
    edge: Edge
    slot: Slot
    bands: tuple[Band, ...]
    beside: tuple[Slot, ...] = ()


def split_sites(graph: Graph, spaces: ChannelSpaces) -> Iterator[SplitSite]:
    """Every layer that writes a free space and whose weight no other node uses; O(#nodes) each."""
    bands = _band_table(spaces)
    for space in spaces.free:
        for slot in space.slots if not space.tied else ():
            node = graph.nodes[slot.node]
            writes = slot.role is Role.PRODUCE or (slot.role is Role.FOLLOW and lookup(node.op).channelwise)
            if not writes or lookup(node.op).apply is None or node.params.get("weight") != slot.param:
                continue
            slots = tuple(other for other in space.slots if other.param == slot.param and other.axis == 0)
            if slots[:1] == (slot,) and len(graph.readers(slot.param)) == 1:
                readers = {
                    reader for other in space.slots if other.role is Role.CONSUME for reader in _readers(graph, other)
                }
                both = [other.node for other in slots if other.across]  # its rows stand on both sides of a product
                counter = next(iter((*spaces.counters.get(space.name, ()), *both)), None)
                if counter is None:
                    yield _walk(graph, bands, space.name, slots, readers)
                else:
                    yield SplitSite(space.name, slot.node, slots, (), (), False, counter)


def not_split(graph: Graph, spaces: ChannelSpaces) -> Iterator[str]:
    """A sentence for every layer that writes a free space but whose splits cannot be learned, which says why."""
    sites = {(site.space, site.node): site for site in split_sites(graph, spaces)}
    for space in spaces.free:
        for name in space.nodes(Role.PRODUCE):
            node, site = graph.nodes[name], sites.get((space.name, name))
            layer = f"'{node.module or name}' ({node.op}) writes '{space.name}', but its channels are not split"
            if site is not None and site.opaque is not None:
                behind = graph.nodes[site.opaque]
                yield f"{layer}: they are not followed through '{behind.module or site.opaque}' ({behind.op})"
            elif site is None and node.op != "parameter":  # a parameter that is read as a value is no layer
                shared = [*space.tied] or [p for p in node.params.values() if len(graph.readers(p)) > 1]
                held = f"several nodes read '{max(shared)}'" if shared else "its weight has no row for each of them"
                yield f"{layer}: {held}"


def read_sites(graph: Graph, spaces: ChannelSpaces) -> Iterator[ReadSite]:
    """Every edge over which a layer reads a free space, but for those spaces of which `not_followed` tells."""
    unread = {name for name, _ in _not_read(graph, spaces)}
    bands = _band_table(spaces)
    for space in spaces.free:
        for slot in space.slots:
            if slot.role is not Role.CONSUME or space.name in unread:
                continue
            if slot.across:
                yield from _across(space, slot, bands)
                continue
            width = graph.params[slot.param].data.shape[slot.axis]  # of one group
            for reader, role in _uses(graph, slot):
                place = lookup(graph.nodes[reader].op).reads(graph.nodes[reader], role)
                if place == OWN_STATE:
                    state = Band(2, slot.offset, space.size, slot.inner)
                    yield ReadSite(space.name, Edge(f"{reader}:{role}", reader), slot, (state,))
                elif place is not None:
                    value = graph.nodes[reader].inputs[place]
                    own = tuple(b for b in bands[value, space.name] if b.start % width == slot.offset)
                    yield ReadSite(space.name, Edge(value, reader), slot, own)


def _across(space: ChannelSpace, slot: Slot, bands: Mapping[tuple[str, str], tuple[Band, ...]]) -> Iterator[ReadSite]:
    """The edges into products that sum over a space, of the first of the slots that read it so."""
    alike = [other for other in space.slots if (other.across, other.start) == (slot.across, slot.start)]
    for node, side, _ in slot.across if alike[0] == slot else ():
        own = tuple(b for b in bands[side.value, space.name] if (b.axis, b.start) == (side.axis, slot.start))
        yield ReadSite(space.name, Edge(side.value, node), slot, own, tuple(alike[1:]))


def _readers(graph: Graph, slot: Slot) -> tuple[str, ...]:
    """The nodes that read channels by a slot."""
    return tuple(place.node for place in slot.across) or tuple(reader for reader, _ in graph.readers(slot.param))


def not_followed(graph: Graph, spaces: ChannelSpaces) -> Iterator[str]:
    """A sentence for every free space of which no removal is scored, which says why."""
    for space, reason in _not_read(graph, spaces):
        yield f"removals from '{space}' are not scored: {reason}"


def _not_read(graph: Graph, spaces: ChannelSpaces) -> Iterator[tuple[str, str]]:
    """Free spaces some read of which has no gradient of its own, each with the reason."""
    for space in spaces.free:
        reads = [use for slot in space.slots if slot.role is Role.CONSUME for use in _uses(graph, slot)]
        reasons = [reason for reader, role in reads if (reason := _hidden(graph, graph.nodes[reader], role))]
        if reasons:
            yield space.name, reasons[0]


def _uses(graph: Graph, slot: Slot) -> list[tuple[str, str]]:
    """The layers that read channels by the parameter of a slot, with its role; a table that is tied to a layer looks up rows."""
    return (
        []
        if slot.across
        else [use for use in graph.readers(slot.param) if lookup(graph.nodes[use[0]].op).looked_up is None]
    )


def _hidden(graph: Graph, node: Node, role: str) -> str | None:
    """Why it cannot be seen what a node's weight reads; None where it can."""
    place, where = lookup(node.op).reads(node, role), f"'{node.module or node.name}' ({node.op})"
    if place == PASSED_BY:
        return f"{where} hands on what it reads; use the layer that has all steps"
    if place == OF_SEVERAL:
        return f"{where} reads it by a weight that is put together of several"
    if place is None or place == OWN_STATE or not isinstance(graph.nodes[node.inputs[place]].type, TupleType):
        return None
    return f"{where} reads it in a tuple of states; pass them apart, as h, c"


def reads_by_space(graph: Graph, spaces: ChannelSpaces) -> dict[str, tuple[ReadSite, ...]]:
    """The read sites of every free space."""
    found: dict[str, tuple[ReadSite, ...]] = {}
    for site in read_sites(graph, spaces):
        found[site.space] = (*found.get(site.space, ()), site)
    return found


def _is_discrete(node: Node) -> bool:
    """Whether the value is made of truth values or integers: no gradient passes it, and what reads it is computed exactly."""
    return isinstance(node.type, TensorType) and (node.type.dtype == "bool" or node.type.dtype[0] in "iu")


def _is_complex(node: Node) -> bool:
    """Whether the value is of complex numbers, whose gradients are none of a real value; pairs are followed up to them."""
    return isinstance(node.type, TensorType) and dtype_of(node.type.dtype).is_complex


def _is_product(node: Node, changed: Sequence[str]) -> bool:
    """Whether a node is linear in one of the inputs that change, but not in all of them together."""
    spec = lookup(node.op)
    return len(changed) > 1 and not spec.is_linear(node, changed) and any(spec.is_linear(node, (i,)) for i in changed)


def _passes_on(graph: Graph, value: str, node: Node) -> bool:
    """Whether `node` alone reads a value and hands its channels on, as pooling does: the two copies pass it apart as well."""
    alone = graph.users(value) == (node.name,) and node.inputs.count(value) == 1 and value not in graph.outputs
    return alone and lookup(node.op).channelwise and isinstance(node.type, TensorType)


def bands_of(spaces: ChannelSpaces, value: str, space: str) -> tuple[Band, ...]:
    """Where the channels of a space lie in a value.

    Args:
        spaces: of the graph.
        value: name of a node.
        space: name of a space that its value holds.
    """
    return _band_table(spaces)[value, space]


def _band_table(spaces: ChannelSpaces) -> dict[tuple[str, str], tuple[Band, ...]]:
    table: dict[tuple[str, str], tuple[Band, ...]] = {}
    for (value, axis), segments in spaces.layouts.items():
        start = 0
        for name, size, inner in segments:
            table[value, name] = (*table.get((value, name), ()), Band(axis, start, size, inner))
            start += size * inner
    return table


def _walk(
    graph: Graph,
    bands: dict[tuple[str, str], tuple[Band, ...]],
    space: str,
    slots: tuple[Slot, ...],
    readers: Collection[str],
) -> SplitSite:
    start = slots[0].node
    moved = {start}  # changed linearly
    bent = dict[str, list[str]]()  # behind a non-linearity, with the products that read it
    tuples = set[str]()  # the same, whose items are followed one by one
    segment, taps, linear = [], list[tuple[Edge, tuple[Band, ...]]](), True
    opaque: str | None = None
    order = list(graph.nodes)
    for name in order[order.index(start) + 1 :]:
        node = graph.nodes[name]
        sources = [i for i in dict.fromkeys(node.inputs) if i in moved]
        changed = [i for i in node.inputs if i in moved or i in bent]
        item = node.op == "getitem" and node.inputs[0] in tuples
        exact = _is_product(node, changed) or any(
            i in bent and (_is_discrete(node) or _is_discrete(graph.nodes[i]) or _passes_on(graph, i, node))
            for i in node.inputs
        )
        if not (sources or exact or item) or (start, space) not in bands:
            continue
        spec = lookup(node.op)
        straight = spec.is_linear(node, changed)
        if spec.channelwise and isinstance(node.type, TupleType):
            linear = linear and straight
            segment.append(name)
            (moved if straight else tuples).add(name)
        elif not spec.channelwise or (name, space) not in bands or _is_complex(node):
            taps += [(Edge(source, name), bands[source, space]) for source in sources if (source, space) in bands]
            if not (straight or name in readers or isinstance(node.type, OpaqueType)):
                opaque = opaque or name
        elif straight and not exact and not item and not any(i in bent for i in node.inputs):
            segment.append(name)
            moved.add(name)
        else:
            linear = False
            segment.append(name)
            bent[name] = []
            for source in node.inputs:
                if source in bent:
                    bent[source].append(name)
    if linear and opaque is not None:
        return SplitSite(space, start, slots, (), (), False, opaque)
    for name, products in bent.items():
        if _is_discrete(graph.nodes[name]):
            continue
        # what a product, or a sum with a value that changed linearly, reads takes part in it exactly; only its other readers
        # see it linearised
        others = [user for user in graph.users(name) if user not in products]
        whole = not products or name in graph.outputs
        taps += [(edge, bands[name, space]) for edge in ([Edge(name)] if whole else [Edge(name, u) for u in others])]
    return SplitSite(space, start, slots, tuple(segment), tuple(taps), linear)
