"""Statistics over channels, while channels come and go: what a norm, or a mean, goes on counting.

A norm over channels changes all of them when one comes. New channels leave it as it is where each is the mean of those that were
there, or zero for a norm without a mean: then the variance alone shrinks, from n channels to m, and its weight by sqrt(n / m) and
its eps by n / m undo that. Anything else it must not count: its statistics are written out, over the entries that they were taken
over before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from gngraph.analysis.channels import ChannelSpaces, Role, Slot
from gngraph.analysis.contraction import shifts
from gngraph.errors import PassError
from gngraph.ir import Attr, Draft, Graph, Node, Slice
from gngraph.ops import ChannelStatistics, lookup

ChannelStart = Literal["mean", "zeros", "random"]
"""How a parameter starts for a new channel: as the mean of its entries for those that are there, at zero, or at random."""

Stretches = tuple[tuple[int, int], ...]
"""Entries of an axis, as pairs of first and end."""


@dataclass(frozen=True)
class Stream:
    """A space whose norms stay norms when it gets new channels.

    Attributes:
        start: what its writers give a new channel.
        written: axes of parameters, as (name, axis), whose entries start so.
        quiet: parameters that read zero of a new channel, whatever they hold for it.
        scales: parameters that a norm multiplies by, which make up for the shrunken variance.
        norms: the norms that count its channels.
    """

    start: ChannelStart
    written: frozenset[tuple[str, int]]
    quiet: frozenset[str]
    scales: frozenset[str]
    norms: tuple[str, ...]

    def start_of(self, slot: Slot) -> ChannelStart | None:
        """How a parameter starts there for a new channel; None where it starts as elsewhere."""
        if (slot.param, slot.axis) in self.written and not slot.across:
            return self.start
        return "random" if slot.role is Role.CONSUME and slot.param in self.quiet else None


def stream_of(graph: Graph, spaces: ChannelSpaces, name: str) -> Stream | None:
    """How a space gets new channels that all of its norms count; None where nothing counts it, or a norm must be written out.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        name: of the space.
    """
    norms = spaces.counters.get(name, ())
    if not norms or not all(_is_norm(graph.nodes[norm]) for norm in norms):
        return None
    if any(
        _statistics(graph.nodes[norm]).whole for norm in norms
    ):  # whose mean is not that of the channels at one position
        return None
    start: ChannelStart = "mean" if _statistics(graph.nodes[norms[0]]).centred else "zeros"
    scales = {graph.nodes[norm].params.get(_statistics(graph.nodes[norm]).scale, "") for norm in norms}
    if not all(scale and {node for node, _ in graph.readers(scale)} <= set(norms) for scale in scales):
        return None
    space = spaces[name]
    writers = {node for slot in space.slots if slot.role is Role.PRODUCE for node, _ in graph.readers(slot.param)}
    beside = {slot.param for slot in space.slots if slot.role is Role.FOLLOW}
    held = {node for (node, _), segments in spaces.layouts.items() if any(owner == name for owner, _, _ in segments)}
    starting, silent = set[str](), set(norms)  # values that hold the start, or zero, in every new channel
    for node in graph.nodes.values():
        changed = [i for i in dict.fromkeys(node.inputs) if i in held] if node.name in held else []
        spec = lookup(node.op)
        if node.name in writers:
            # what a layer reads and writes may be one space, and a raw weight take part in a product
            starting.update([node.name] if node.name in held and not changed else [])
        elif changed and spec.channelwise and spec.is_linear(node, changed) and beside.isdisjoint(node.params.values()):
            shifted = shifts(graph, node, changed)
            if starting.issuperset(changed) and (start == "mean" or not shifted):
                starting.add(node.name)
            if silent.issuperset(changed) and not shifted:
                silent.add(node.name)
        elif start == "zeros" and node.name in norms and node.inputs[0] in starting:
            starting.add(node.name)
    if start == "zeros":
        silent |= starting
    for norm in norms:
        node = graph.nodes[norm]
        (axis,) = spaces.counted[norm]
        one = [(owner, inner) for owner, _, inner in spaces.layouts[node.inputs[0], axis]] == [(name, 1)]
        alike = _statistics(node).centred == (start == "mean")
        if not (one and alike and node.inputs[0] in starting):
            return None
    given = {param for node in writers for param in graph.nodes[node].params.values()}
    # along its other axis a layer may read the same space
    written = {(slot.param, slot.axis) for slot in space.slots if slot.role is not Role.CONSUME and slot.param in given}
    reads: dict[str, list[str]] = {}
    for slot in space.slots:
        if slot.role is Role.CONSUME:
            reads.setdefault(slot.param, []).extend(_read(graph, slot))
    quiet = {param for param, values in reads.items() if silent.issuperset(values)}
    if not quiet.issuperset(space.tied):  # what it starts with is read
        return None
    return Stream(start, frozenset(written), frozenset(quiet), frozenset(scales), norms)


def _read(graph: Graph, slot: Slot) -> list[str]:
    """The values that a parameter reads by a slot."""
    if slot.across:
        return [place.side.value for place in slot.across]
    readers = [graph.nodes[node] for node, role in graph.readers(slot.param) if _multiplies(graph.nodes[node], role)]
    return [reader.inputs[0] for reader in readers]


def _multiplies(node: Node, role: str) -> bool:
    """Whether a node multiplies what it reads by a parameter, and does not look its rows up, or ask for its kind alone."""
    return lookup(node.op).looked_up is None and lookup(node.op).reads(node, role) is not None


def _is_norm(node: Node) -> bool:
    counts = lookup(node.op).counts
    return counts is not None and counts.norm


def _statistics(node: Node) -> ChannelStatistics:
    counts = lookup(node.op).counts
    assert counts is not None
    return counts


def scaled_eps(norm: Node, share: float) -> dict[str, Attr]:
    """The attribute of a norm that is added to the variance, where the variance shrinks to a share; the least step stays so."""
    counts = _statistics(norm)
    eps: float | None = norm.attrs[counts.eps]
    return {} if eps is None else {counts.eps: eps * share}


def count_only(draft: Draft, node: Node, kept: Mapping[int, Stretches]) -> None:
    """Let a node take its statistics over some entries alone; a norm is written out for it.

    Args:
        draft: of the graph, in which `node` is as it was.
        node: takes statistics over channels.
        kept: axis of its first input -> the entries that count.
    """
    chain = _Chain(draft, node)
    if lookup(node.op).counts is None:
        _slice(draft, node, kept)
        return
    if not _is_norm(node):
        draft.put(replace(node, inputs=(chain.parts(node.inputs[0], kept), *node.inputs[1:])))
        return
    source, counts = node.inputs[0], _statistics(node)
    axes = counts.axes(node, len(draft.node(source).shape))
    over: Mapping[str, Attr] = {"dim": axes if counts.whole else -1, "keepdim": True}
    if counts.centred:
        part = chain.parts(source, kept)
        centred = chain.add("sub", (source, chain.add("mean", (part,), over)))
        spread = chain.add("var", (part,), {**over, "unbiased": True, "correction": 0})
    else:
        centred = source
        spread = chain.add("mean", (chain.parts(chain.add("square", (source,)), kept),), over)
    root = chain.add("rsqrt", (chain.add("add", (spread,), {"literal1": _eps(draft, node)}),))
    value, last = centred, ("mul", root)
    along = (Slice(None, None, None), *[None] * (len(axes) - 1))  # a channel's own, at all of its positions
    for op, role in (("mul", counts.scale), ("add", counts.shift)):
        if role in node.params:
            value = chain.add(last[0], (value, last[1]))
            entries = chain.add("parameter", (), {}, {"value": node.params[role]})
            last = op, chain.add("index", (entries,), {"index": along}) if counts.whole else entries
    draft.put(Node(node.name, last[0], (value, last[1]), scope=node.scope, type=node.type))


def _slice(draft: Draft, node: Node, kept: Mapping[int, Stretches]) -> None:
    """Let a slice take other entries: the first ones, or several stretches."""
    ((axis, stretches),) = kept.items()
    if len(stretches) == 1 and stretches[0][0] == 0:
        index, position = list(node.attrs["index"]), _position(node, axis)
        index[position] = replace(index[position], stop=stretches[0][1])
        draft.set_attrs(node.name, index=tuple(index))
        return
    draft.replace_uses(node.name, _Chain(draft, node).parts(node.inputs[0], kept))
    draft.remove(node.name)


def _position(node: Node, axis: int) -> int:
    """Where the slice of an axis stands in an index."""
    return [i for i, entry in enumerate(node.attrs["index"]) if entry is not None][axis]


def _eps(draft: Draft, node: Node) -> float:
    """What a norm adds to the variance, as a number."""
    counts = _statistics(node)
    eps: float | None = node.attrs[counts.eps]
    if eps is not None:
        return eps
    own = (draft.params[p].data.dtype for p in (*node.params.values(), *draft.params))
    return torch.finfo(next((dtype for dtype in own if dtype.is_floating_point), torch.float32)).eps


class _Chain:
    """Nodes that are added before a node, each behind the last."""

    def __init__(self, draft: Draft, node: Node) -> None:
        self.draft, self.node, self.last = draft, node, node.inputs[0]

    def add(
        self,
        op: str,
        inputs: tuple[str, ...],
        attrs: Mapping[str, Attr] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> str:
        name = self.draft.fresh_name(f"{self.node.name}_{op}")
        node = Node(name, op, inputs, params or {}, attrs or {}, scope=self.node.scope)
        self.draft.add(node, after=self.last)
        self.last = name
        return name

    def parts(self, value: str, kept: Mapping[int, Stretches]) -> str:
        """Some entries of a value, in a row."""
        for axis, stretches in kept.items():
            before = (Slice(None, None, None),) * axis
            pieces = [
                self.add("index", (value,), {"index": (*before, Slice(first or None, end, None))})
                for first, end in stretches
            ]
            value = pieces[0] if len(pieces) == 1 else self.add("cat", tuple(pieces), {"dim": axis})
        return value


def stretches_of(kept: Sequence[bool]) -> Stretches:
    """The runs of True.

    >>> stretches_of([True, True, False, True])
    ((0, 2), (3, 4))
    """
    bounds = [i for i in range(len(kept) + 1) if (i > 0 and kept[i - 1]) != (i < len(kept) and kept[i])]
    return tuple(zip(bounds[::2], bounds[1::2], strict=True))


def kept_entries(
    graph: Graph, spaces: ChannelSpaces, node: str, sources: Mapping[str, Sequence[int]]
) -> dict[int, Stretches]:
    """Axis -> the entries that a node goes on counting, for the axes where those are not all of what it reads.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        node: takes statistics over channels, or the first of them for statistics.
        sources: space -> for each of its channels afterwards, the channel before that it is to be counted for, or -1; channels
            of other spaces stay.

    Raises:
        PassError: nothing would be left to count.
    """
    found: dict[int, Stretches] = {}
    for axis in spaces.counted[node]:
        segments = spaces.layouts.get((graph.nodes[node].inputs[0], axis), ())
        if sources.keys().isdisjoint(owner for owner, _, _ in segments):
            continue
        most = _counted_entries(graph.nodes[node], axis)
        entries: list[bool] = []
        start = 0  # of the segment, before the rewrite
        for owner, size, inner in segments:
            for source in sources.get(owner, range(size)):
                count = source >= 0 and (most is None or start + source * inner < most)
                entries += [count] * inner
            start += size * inner
        if not any(entries):
            where = graph.nodes[node].module or node
            raise PassError(
                f"'{where}' would be left without a channel that it counts; keep one of those that it counts"
            )
        if not all(entries):
            found[axis] = stretches_of(entries)
    return found


def _counted_entries(node: Node, axis: int) -> int | None:
    """How many of the first entries a slice takes; None for what takes statistics itself."""
    if lookup(node.op).counts is not None:
        return None
    stop: int = node.attrs["index"][_position(node, axis)].stop
    return stop
