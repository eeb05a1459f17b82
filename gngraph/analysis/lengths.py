"""Graphs at other sizes of their inputs, at which a change of a width must be what it is at the size of the example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gngraph.ir import BATCH, Graph, Node, TensorType, Type
from gngraph.ops import Layout, operands_of
from gngraph.ops.foreign import DECIDED
from gngraph.ops.reshape import flatten_span, regrouped
from gngraph.ops.table import infer_type


def at_other_sizes(graph: Graph) -> Iterator[Graph]:
    """The graph with an axis of one of its inputs twice as long, for every such axis along which its types allow it.

    Args:
        graph: a network.
    """
    for name in graph.inputs:
        node = graph.nodes[name]
        decided = node.attrs.get(DECIDED, ())
        for axis, size in enumerate(node.shape if BATCH in node.shape else ()):
            if isinstance(size, int) and not (isinstance(decided, tuple) and axis in decided):
                longer = _retyped(graph, name, axis, 2 * size)
                if longer is not None:
                    yield longer


def _retyped(graph: Graph, name: str, axis: int, size: int) -> Graph | None:
    """The graph with an axis of an input of another size; None where a node does not take that, or is not known to."""
    given = graph.nodes[name].type
    assert isinstance(given, TensorType)
    shape = (*given.shape[:axis], size, *given.shape[axis + 1 :])
    nodes, changed = dict(graph.nodes), {name}
    nodes[name] = replace(graph.nodes[name], type=replace(given, shape=shape))
    for node in graph.nodes.values():
        if changed.isdisjoint(node.inputs):
            continue
        if node.op == "foreign":
            return None
        try:
            found = infer_type(node, tuple(nodes[source].type for source in node.inputs), graph.params)
        except Exception:  # whatever a type rule raises that counts on sizes which fit
            return None
        if found != node.type:
            nodes[node.name] = replace(node, type=found)
            changed.add(node.name)
    return replace(graph, nodes=nodes)


def mixes(graph: Graph, longer: Graph, values: Mapping[str, Sequence[Mapping[int, Layout]]]) -> bool:
    """Whether channels are merged with what is longer, so that how many entries each has depends on it.

    Args:
        graph: a network.
        longer: the same at another size of an input.
        values: the layouts by axis of the value of every node.
    """
    for node in graph.nodes.values():
        if node.op in ("flatten", "reshape") and graph.nodes[node.inputs[0]] is not longer.nodes[node.inputs[0]]:
            old, new = (one.nodes[node.inputs[0]].shape for one in (graph, longer))
            layouts = values[node.inputs[0]][0]
            for axes in _merged(graph, node):
                if any(axis in layouts for axis in axes) and any(old[axis] != new[axis] for axis in axes):
                    return True
    return False


def _merged(graph: Graph, node: Node) -> Iterator[Sequence[int]]:
    """Neighbouring axes that a node merges, or takes apart anew."""
    types: tuple[Type, ...] = tuple(graph.nodes[source].type for source in node.inputs)
    operands = operands_of(node, types, graph.params)
    if node.op == "flatten":
        start, end = flatten_span(operands)
        yield range(start, end + 1)
    else:
        yield from (before for before, behind in regrouped(operands) if len(before) > 1 or len(behind) > 1)
