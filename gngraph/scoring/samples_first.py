"""A graph for scoring, whose layers read and write values with one row a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gngraph.ir import BATCH, Attr, Graph, Node
from gngraph.ops import draft_of
from gngraph.ops.linear_part import PART_LINEAR

_ALONG_THE_LAST = ("linear", PART_LINEAR, "layer_norm", "rms_norm")
"""Ops that work along the last axis alone, however the others stand."""


def with_samples_first(graph: Graph) -> Graph:
    """The same graph where it is so already; else one that computes the same, with two axes swapped around such layers.

    Torch's attention module has the positions before the samples, where effects on each sample could not be told apart. Nodes
    and parameters keep their names, so that what is found fits the graph itself; what is added is read by one layer each, or
    gives on what it wrote.
    """
    swapped = [node for node in graph.nodes.values() if node.op in _ALONG_THE_LAST and _is_position_first(node)]
    if not swapped:
        return graph
    draft, axes = draft_of(graph), {"dim0": 0, "dim1": 1}
    for node in swapped:
        before, after = (draft.fresh_name(f"{node.name}_{place}") for place in ("reads", "gives"))
        source = draft.node(node.name).inputs[0]
        draft.add(_swap(before, source, axes, node), after=source)
        draft.put(replace(draft.node(node.name), inputs=(before,)))
        draft.add(_swap(after, node.name, axes, node), after=node.name)
        draft.replace_uses(node.name, after, except_in=(after,))
    return draft.commit()


def _is_position_first(node: Node) -> bool:
    shape = node.shape
    return len(node.inputs) == 1 and len(shape) == 3 and isinstance(shape[0], int) and shape[1] == BATCH


def _swap(name: str, source: str, axes: Mapping[str, Attr], node: Node) -> Node:
    return Node(name, "transpose", (source,), {}, axes, scope=node.scope)
