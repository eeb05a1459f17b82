"""Which axis of a reshape carries channels, where attention is behind it: its heads, along which nothing is summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gngraph.ir import BATCH, Dim, Graph, Node
from gngraph.ops import Layout, Segment, lookup, operands_of
from gngraph.ops.added_products import ADDED_PRODUCTS
from gngraph.ops.reshape import carrying, flatten_span, inside, sparing
from gngraph.ops.spec import AttrPath, Fresh, Operands

_Axis = tuple[str, int, int]
"""A value, the item of it where it is a tuple, else 0, and an axis of that."""


def with_heads(graph: Graph) -> Graph:
    """The same graph, in which heads carry the channels of every reshape that makes them.

    A reshape of heads * size channels can let either of the two change. Of values that are multiplied with each other, as
    queries and keys are, it lets the axis that stays; that along which they are summed up could not change. O(#nodes) for each
    product of values.
    """
    nodes = dict(graph.nodes)
    for node, axis in _counting_parts(graph):
        operands = operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
        nodes[node.name] = replace(node, attrs={**node.attrs, "regroup": sparing(operands, axis)})
    seen = set[_Axis]()
    waiting = [axis for node in graph.nodes.values() for axis in _kept_by_products(graph, node)]
    while waiting:
        name, item, axis = place = waiting.pop()
        node = nodes[name]
        if place in seen or not node.inputs:
            continue
        seen.add(place)
        operands = operands_of(node, tuple(nodes[i].type for i in node.inputs), graph.params)
        if node.op == "reshape" and node.attrs["regroup"]:
            regroup, before = carrying(operands, axis)
            nodes[name] = replace(node, attrs={**node.attrs, "regroup": regroup})
            merged = _merged(graph, operands, before)
            sources = [(0, 0, merged[0])] if len(merged) == 1 else []
        elif node.op == "flatten" and axis == flatten_span(operands)[0]:
            first, last = flatten_span(operands)
            sources = [(0, 0, _merged(graph, operands, range(first, last + 1))[0])]
        else:
            sources = list(_sources(operands, item, axis))
        waiting += [(node.inputs[index], part, own) for index, part, own in sources]
    return replace(graph, nodes=nodes)


def with_head_sizes(graph: Graph) -> Graph:
    """The same graph, in which the entries of a head carry the channels of every reshape that makes heads, not the heads.

    Args:
        graph: as it was imported.
    """
    nodes = dict(graph.nodes)
    for name, axis in _splitting(graph):
        node = nodes[name]
        operands = operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
        nodes[name] = replace(node, attrs={**node.attrs, "regroup": carrying(operands, axis)[0]})
    return replace(graph, nodes=nodes)


def _splitting(graph: Graph) -> Iterator[tuple[str, int]]:
    """Reshapes whose heads carry channels of a product of values, each with the axis of what a head has."""
    seen = set[_Axis]()
    waiting = [axis for node in graph.nodes.values() for axis in _kept_by_products(graph, node)]
    while waiting:
        name, item, axis = place = waiting.pop()
        node = graph.nodes[name]
        if place in seen or not node.inputs:
            continue
        seen.add(place)
        operands = operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
        if node.op == "reshape" and node.attrs["regroup"]:
            entries = inside(operands, axis)
            if entries is not None:
                yield name, entries
        waiting += [(node.inputs[index], part, own) for index, part, own in _sources(operands, item, axis)]


def _merged(graph: Graph, operands: Operands, axes: range) -> list[int]:
    """Those of the axes that a node merges which may hold the channels of what it gives: those of several entries, if any.

    Along an axis of copies lie none: where keys of a single head are copied for all queries, it is their head that counts.
    """
    source, shape = graph.nodes[operands.node.inputs[0]], operands.tensor().shape
    own = operands_of(source, tuple(graph.nodes[i].type for i in source.inputs), graph.params)
    able = [axis for axis in axes if source.op != "expand" or list(_sources(own, 0, axis))] or [axes[0]]
    return [axis for axis in able if shape[axis] not in (1, BATCH)] or able[:1]


def _counting_parts(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Reshapes, each with an axis of which single entries are taken, as of one that counts queries, keys and values."""
    waiting: list[_Axis] = []
    for node in graph.nodes.values():
        if node.op == "unbind":
            waiting.append((node.inputs[0], 0, node.attrs["dim"] % len(graph.nodes[node.inputs[0]].shape)))
        elif node.op == "index":
            entries = [entry for entry in node.attrs["index"] if entry is not None]
            waiting += [(node.inputs[0], 0, axis) for axis, entry in enumerate(entries) if isinstance(entry, int)]
    while waiting:
        name, item, axis = waiting.pop()
        node = graph.nodes[name]
        if node.op == "reshape" and node.attrs["regroup"]:
            yield node, axis
        elif node.op in ("transpose", "permute"):
            operands = operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
            waiting += [(node.inputs[index], part, own) for index, part, own in _sources(operands, item, axis)]


def _kept_by_products(graph: Graph, node: Node) -> Iterator[_Axis]:
    """The axes that several factors of a product of values have, and the result too, where they are of a size that is known."""
    operands = operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
    if node.op not in ("attention", "matmul", "einsum", ADDED_PRODUCTS) or node.params:
        return
    for axis in range(len(node.shape)):
        sources = list(_sources(operands, 0, axis))
        if len(sources) > 1:
            for index, _, own in sources:
                if operands.tensor(index).shape[own] != BATCH:
                    yield node.inputs[index], 0, own


def _sources(operands: Operands, item: int, axis: int) -> Iterator[tuple[int, int, int]]:
    """The axes of inputs whose channels an axis of a node's value has, each with the number of the input and its item."""
    followed = _Followed(operands)
    lookup(operands.node.op).channels(followed, operands)
    for token in dict.fromkeys(segment.var for segment in followed.found.get((item, axis), ())):
        yield followed.places[token]


class _Followed:
    """Implements `gngraph.ops.ChannelRules` for one node, to see which axes it hands on: each has a variable of its own."""

    def __init__(self, operands: Operands) -> None:
        self.operands = operands
        self.places: list[tuple[int, int, int]] = []
        self.found: dict[tuple[int, int], Layout] = {}

    def _place(self, operand: int, item: int, axis: int) -> Layout:
        self.places.append((operand, item, axis))
        return (Segment(len(self.places) - 1, 1),)

    def layout(self, operand: int, axis: int) -> Layout | None:
        return self._place(operand, 0, axis)

    def item_layouts(self, operand: int, item: int) -> Mapping[int, Layout]:
        rank = len(self.operands.node.shape)
        return {axis: self._place(operand, item, axis) for axis in range(rank)}

    def produce(self, role: str, axis: int) -> Layout:
        return ()

    def see(self, role: str, axis: int) -> Layout | None:
        return None

    def follow(self, role: str, axis: int, layout: Layout | None, fresh: Fresh) -> None: ...

    def consume(self, role: str, axis: int, layout: Layout | None) -> None: ...

    def unify(self, layouts: list[Layout | None]) -> Layout | None:
        return tuple(segment for layout in layouts for segment in layout or ())

    def join(self, layouts: Sequence[Layout | None], sizes: Sequence[Dim]) -> Layout | None:
        return self.unify(list(layouts))

    def divide(self, layout: Layout | None, lengths: Sequence[int], reason: str) -> list[Layout | None]:
        return [layout] * len(lengths)

    def group(self, layout: Layout | None, entries: int, reason: str) -> Layout | None:
        return layout

    def blank(self, size: int) -> Layout:
        return ()

    def same_amount(self, a: Layout | None, b: Layout | None) -> bool:
        return True

    def contract(self, axes: Sequence[tuple[int, int]], reason: str) -> None: ...

    def freeze(self, layout: Layout | None, reason: str) -> None: ...

    def count(self, axis: int) -> None: ...

    def only_counted(self, axis: int) -> bool:
        return False

    def unread(self) -> bool:
        return False

    def measure(self, path: AttrPath, layout: Layout | None) -> None: ...

    def set(self, axis: int, layout: Layout | None, item: int = 0) -> None:
        self.found[item, axis] = layout or ()
