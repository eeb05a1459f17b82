"""Chains of reshapes that mix the samples with other axes and part them again, as splits, one permutation and merges.

So are patches of a map cut, as MobileViT does it: the map is brought into N * C * h rows, of which no axis holds the channels, and
taken apart again. Whatever a chain does on its way, it splits axes, moves the parts, and merges them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gngraph.ir import Attr, Dim, Draft, Graph, Node, OpaqueType, Ref, TensorType
from gngraph.ir.types import refs_in
from gngraph.ops import draft_of, operands_of
from gngraph.ops.reshape import regrouping
from gngraph.ops.shape import order_of
from gngraph.ops.sizes import quotient

_REGROUPING = ("reshape", "flatten")
_CHAINED = (*_REGROUPING, "permute", "transpose", "unsqueeze", "contiguous")


def with_samples_apart(graph: Graph) -> Graph:
    """The same graph, in which no chain of reshapes mixes the samples with what it parts from them again. O(#nodes)."""
    draft, found = draft_of(graph), False
    for chain in _chains(graph):
        parts = _Parts.of(graph, chain)
        if parts is not None:
            parts.write(draft, graph, chain)
            found = True
    return draft.commit() if found else graph


def _chains(graph: Graph) -> Iterator[list[Node]]:
    """Rows of nodes that move entries, each of which is all that reads the one before."""
    ending: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.op not in _CHAINED:
            continue
        source = node.inputs[0]
        alone = len(graph.users(source)) == 1 and source not in graph.outputs
        before = ending.pop(source, []) if alone else []
        ending[node.name] = [*before, node]
    yield from ending.values()


@dataclass(eq=False)
class _Part:
    """A part of an axis, and what gives its size where that is known: a number, or a size that the forward computes."""

    size: Dim
    entry: Attr = None


@dataclass
class _Parts:
    """What a chain does.

    Attributes:
        source: the parts of each axis of what it reads, in order.
        axes: the same parts by the axes that they have come to.
        parted: whether parts that were merged with samples were parted from them again.
    """

    source: list[list[_Part]]
    axes: list[list[_Part]]
    parted: bool = False

    @staticmethod
    def of(graph: Graph, chain: Sequence[Node]) -> _Parts | None:
        """The parts of a chain that mixes samples with others and parts them; None for others, and what is not understood."""
        parts = [_Part(size) for size in graph.nodes[chain[0].inputs[0]].shape]
        found = _Parts([[part] for part in parts], [[part] for part in parts])
        if not all(map(found._follow, chain)) or not found.parted:
            return None
        return found if all(sum(p.entry is None for p in axis) < 2 for axis in found.source) else None

    def write(self, draft: Draft, graph: Graph, chain: Sequence[Node]) -> None:
        """Put what a chain does in its place.

        Args:
            draft: of `graph`, in which the chain is as it was.
            graph: has the chain.
            chain: whose parts these are.
        """
        last, value = chain[-1], chain[0].inputs[0]
        added = last.name

        def add(op: str, attrs: dict[str, Attr], sizes: Sequence[str] = ()) -> None:
            nonlocal added, value
            node = Node(draft.fresh_name(f"{last.name}_{op}"), op, (value, *sizes), {}, attrs, scope=last.scope)
            draft.add(node, after=added)
            added = value = node.name

        source = graph.nodes[value]
        assert isinstance(source.type, TensorType)
        shape = list(source.shape)
        for axis in reversed(range(len(shape))):
            parts = self.source[axis]
            if len(parts) > 1:
                attrs, sizes = _split(graph, TensorType(source.type.dtype, tuple(shape)), axis, parts)
                add("reshape", attrs, sizes)
                shape[axis : axis + 1] = [part.size for part in parts]
        places = {part: place for place, part in enumerate(part for parts in self.source for part in parts)}
        order = tuple(places[part] for parts in self.axes for part in parts)
        if order != tuple(range(len(order))):
            add("permute", {"dims": order})
        for axis, parts in enumerate(self.axes):
            if not parts:
                add("unsqueeze", {"dim": axis})
            elif len(parts) > 1:
                add("flatten", {"start_dim": axis, "end_dim": axis + len(parts) - 1})
        if last.op in (
            *_REGROUPING,
            "contiguous",
        ):  # where reshapes copy; the layers behind may round otherwise for other strides
            add("contiguous", {})
        draft.replace_uses(last.name, value)
        draft.remove_unread({*(node.name for node in chain), *_sizes_behind(graph, chain)})

    def _follow(self, node: Node) -> bool:
        """What one more node does; whether it is understood."""
        if node.op in _REGROUPING:
            entries = node.attrs["shape"] if node.op == "reshape" else (None,) * len(node.shape)
            return self._regroup(node.shape, entries)
        if node.op == "unsqueeze":
            self.axes.insert(node.attrs["dim"] % (len(self.axes) + 1), [])
        elif node.op != "contiguous":
            self.axes = [self.axes[axis] for axis in order_of(node, len(self.axes))]
        return True

    def _regroup(self, shape: Sequence[Dim], entries: Sequence[Attr]) -> bool:
        old = {part: parts for parts in self.axes for part in parts}
        mixed = [parts for parts in self.axes if any(isinstance(p.size, str) for p in parts) and _several(parts)]
        waiting = [part for parts in self.axes for part in parts]
        self.axes = []
        for size, entry in zip(shape, entries, strict=True):
            taken: list[_Part] = []
            rest: Dim | None = size
            while rest != 1:
                if not waiting or rest is None:
                    return False
                behind = quotient(rest, waiting[0].size)
                if behind is None:
                    inner = quotient(waiting[0].size, rest)
                    if inner is None:
                        return False
                    parts = self._cut(waiting[0], (rest, inner))
                    old.update(dict.fromkeys(parts, old[waiting[0]]))
                    waiting[:1] = parts
                    behind = 1
                taken.append(waiting.pop(0))
                rest = behind
            if len(taken) == 1 and entry != -1 and not isinstance(taken[0].entry, int):
                taken[0].entry = entry
            self.axes.append(taken)
        if any(part.size != 1 for part in waiting):
            return False
        if self.axes:
            self.axes[-1] += waiting
        for parts in mixed:
            kept = [axis for axis in self.axes if any(old.get(part) is parts and part.size != 1 for part in axis)]
            self.parted = self.parted or len(kept) > 1
        return bool(self.axes) or not waiting

    def _cut(self, part: _Part, sizes: tuple[Dim, Dim]) -> list[_Part]:
        """Two parts in the place of one."""
        new = [_Part(size) for size in sizes]
        for parts in self.source:
            if part in parts:
                at = parts.index(part)
                parts[at : at + 1] = new
        return new


def _several(parts: Sequence[_Part]) -> bool:
    return sum(part.size != 1 for part in parts) > 1


def _split(
    graph: Graph, type_: TensorType, axis: int, parts: Sequence[_Part]
) -> tuple[dict[str, Attr], tuple[str, ...]]:
    """The attributes of a reshape that spreads an axis of a value over its parts, and the sizes that it reads.

    One entry follows from the others: the one that nothing gives, or else a size that the forward computes.
    """
    entries = [part.entry for part in parts]
    free = next((i for i, entry in enumerate(entries) if entry is None), None)
    free = next((i for i, entry in enumerate(entries) if isinstance(entry, Ref)), None) if free is None else free
    if free is not None:
        entries[free] = -1
    kept: list[Attr] = [None] * len(type_.shape)
    kept[axis : axis + 1] = entries
    sizes = tuple(dict.fromkeys(refs_in(tuple(entries))))
    attrs: dict[str, Attr] = {"shape": tuple(kept), "method": "unflatten"}
    node = Node("split", "reshape", ("value", *sizes), {}, attrs)
    types = (type_, *(graph.nodes[size].type for size in sizes))
    return {**attrs, "regroup": regrouping(operands_of(node, types, {}))}, sizes


def _sizes_behind(graph: Graph, chain: Sequence[Node]) -> set[str]:
    """The nodes that compute the sizes which a chain reads."""
    found: set[str] = set()
    waiting = [name for node in chain for name in node.inputs[1:]]
    while waiting:
        name = waiting.pop()
        if name not in found and isinstance(graph.nodes[name].type, OpaqueType):
            found.add(name)
            waiting += graph.nodes[name].inputs
    return found
