"""Which axis of a reshape carries channels, where attention is behind it: its heads, along which nothing is summed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gngraph.ir import BATCH, Graph, Node
from gngraph.ops import lookup, operands_of
from gngraph.ops.added_products import ADDED_PRODUCTS
from gngraph.ops.handed_on import HandedOn, handed_on
from gngraph.ops.pointwise import SOFTMAXES
from gngraph.ops.reductions import REDUCTIONS, reduced_axes
from gngraph.ops.reshape import carrying, flatten_span, inside, sparing
from gngraph.ops.spec import Operands

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
        nodes[node.name] = replace(node, attrs={**node.attrs, "regroup": sparing(_operands(graph, node), axis)})
    for name, axis in _making_heads(graph):
        nodes[name] = _carried(graph, nodes[name], axis)
    return replace(graph, nodes=nodes)


def with_head_sizes(graph: Graph) -> Graph:
    """The same graph, in which the entries of a head carry the channels of every reshape that makes heads, not the heads.

    Args:
        graph: as it was imported.
    """
    nodes = dict(graph.nodes)
    for name, axis in _making_heads(graph):
        entries = inside(_operands(graph, nodes[name]), axis)
        if entries is not None:
            nodes[name] = _carried(graph, nodes[name], entries)
    return replace(graph, nodes=nodes)


def _operands(graph: Graph, node: Node) -> Operands:
    return operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)


def _carried(graph: Graph, node: Node, axis: int) -> Node:
    """A reshape with `axis` of its value as the carrier of its group."""
    return replace(node, attrs={**node.attrs, "regroup": carrying(_operands(graph, node), axis)[0]})


def _making_heads(graph: Graph) -> Iterator[tuple[str, int]]:
    """Reshapes behind which products of values keep what an axis of theirs holds, each with that axis."""
    seen = set[_Axis]()
    waiting = [axis for node in graph.nodes.values() for axis in _kept_by_products(graph, node)]
    while waiting:
        name, item, axis = place = waiting.pop()
        node = graph.nodes[name]
        if place in seen or not node.inputs:
            continue
        seen.add(place)
        operands = _operands(graph, node)
        if node.op == "reshape" and node.attrs["regroup"]:
            yield name, axis
            merged = _merged(graph, operands, carrying(operands, axis)[1])
            sources = [HandedOn(0, 0, merged[0])] if len(merged) == 1 else []
        elif node.op == "flatten" and axis == flatten_span(operands)[0]:
            first, last = flatten_span(operands)
            sources = [HandedOn(0, 0, _merged(graph, operands, range(first, last + 1))[0])]
        else:
            sources = list(handed_on(operands, item, axis))
        waiting += [(node.inputs[index], part, own) for index, part, own in sources]


def _merged(graph: Graph, operands: Operands, axes: range) -> list[int]:
    """Those of the axes that a node merges which may hold the channels of what it gives: those of several entries, if any.

    Along an axis of copies lie none: where keys of a single head are copied for all queries, it is their head that counts.
    """
    source, shape = graph.nodes[operands.node.inputs[0]], operands.tensor().shape
    own = _operands(graph, source)
    able = [axis for axis in axes if source.op != "expand" or list(handed_on(own, 0, axis))] or [axes[0]]
    return [axis for axis in able if shape[axis] not in (1, BATCH)] or able[:1]


def _counting_parts(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Reshapes, each with an axis of which single entries are taken, or over which a node adds up or normalises.

    As of one that counts queries, keys and values, or the branches that a gate weighs; of the latter none whose size the forward
    computes, for that axis carries the channels in any case.
    """
    waiting: list[tuple[_Axis, bool]] = []
    for node in graph.nodes.values():
        if node.op == "unbind":
            waiting.append(((node.inputs[0], 0, node.attrs["dim"] % len(graph.nodes[node.inputs[0]].shape)), True))
        elif node.op == "index":
            entries = [entry for entry in node.attrs["index"] if entry is not None]
            taken = [axis for axis, entry in enumerate(entries) if isinstance(entry, int)]
            waiting += [((node.inputs[0], 0, axis), True) for axis in taken]
        elif node.op in (*REDUCTIONS, *SOFTMAXES) and node.attrs.get("dim") is not None:
            waiting += [((node.inputs[0], 0, axis), False) for axis in reduced_axes(_operands(graph, node))]
    seen = set[tuple[_Axis, bool]]()
    while waiting:
        place = (name, item, axis), single = waiting.pop()
        node = graph.nodes[name]
        if place in seen:
            continue
        seen.add(place)
        if node.op == "reshape" and node.attrs["regroup"]:
            if single or isinstance(node.attrs["shape"][axis], int):
                yield node, axis
        elif node.op in ("transpose", "permute") or (not single and lookup(node.op).channelwise and node.inputs):
            sources = handed_on(_operands(graph, node), item, axis)
            waiting += [((node.inputs[index], part, own), single) for index, part, own in sources]


def _kept_by_products(graph: Graph, node: Node) -> Iterator[_Axis]:
    """The axes that several factors of a product of values have, and the result too, where they are of a size that is known."""
    operands = _operands(graph, node)
    if node.op not in ("attention", "matmul", "einsum", "baddbmm", ADDED_PRODUCTS) or node.params:
        return
    for axis in range(len(node.shape)):
        sources = list(handed_on(operands, 0, axis))
        if len(sources) > 1:
            for index, _, own in sources:
                if operands.tensor(index).shape[own] != BATCH:
                    yield node.inputs[index], 0, own
