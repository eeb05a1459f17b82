"""Cut points: the values that everything which reaches the output has passed, found by dominators."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.snapshots import per_snapshot
from gngraph.ir import Graph, TensorType
from gngraph.ir.inputs import of_samples
from gngraph.ops import lookup


@dataclass(frozen=True)
class CutPoint:
    """A value at which a layer can be inserted.

    Attributes:
        value: name of the node.
        type: its type.
        axis: its channel axis.
        nonnegative: whether no entry can be below 0, as behind a ReLU, so that a further ReLU changes nothing.
    """

    value: str
    type: TensorType
    axis: int
    nonnegative: bool

    @property
    def width(self) -> int:
        """Entries along the channel axis."""
        return int(self.type.shape[self.axis])


@per_snapshot
def stretches(graph: Graph) -> Mapping[str, frozenset[str]]:
    """Values on every path from the inputs to the outputs, in order, each with the nodes between it and the one before it.

    These are what it is computed from, itself among them, but not the value before it, nor what that is computed from. Sizes that
    a forward reads are no path. O(#nodes), once a graph.

    The values are the dominators of an end behind all outputs, seen from a start before all inputs (Cooper, Harvey and Kennedy,
    *A Simple, Fast Dominance Algorithm*, 2001, as networkx has it).
    """
    flow = nx.DiGraph()
    for node in graph.nodes.values():
        if not lookup(node.op).of_sizes:
            flow.add_edges_from(
                (source, node.name) for source in node.inputs if not lookup(graph.nodes[source].op).of_sizes
            )
    start, end = object(), object()
    flow.add_edges_from((start, name) for name in of_samples(graph) or graph.inputs)
    flow.add_edges_from((name, end) for name in graph.outputs if name in flow)
    above = nx.immediate_dominators(flow, start)
    chain: list[str] = []
    at = above.get(end, start)
    while at is not start:
        chain.append(at)
        at = above[at]
    seen, found = set[str](), dict[str, frozenset[str]]()
    for value in reversed(chain):
        found[value] = frozenset(ancestors(graph, value, seen))
        seen |= found[value]
    return found


def ancestors(graph: Graph, value: str, but: Collection[str] = ()) -> set[str]:
    """Names of a value and of all that it is computed from.

    Args:
        graph: has the value.
        value: name of its node.
        but: names of nodes that are left out, with what they alone are computed from.
    """
    found, pending = {value}, [value]
    while pending:
        new = {name for name in graph.nodes[pending.pop()].inputs if name not in found and name not in but}
        found |= new
        pending += new
    return found


def dominating_values(graph: Graph) -> tuple[str, ...]:
    """Values on every path from the inputs to the outputs, in order; sizes that a forward reads are no path."""
    return tuple(stretches(graph))


def nodes_between(graph: Graph, before: str, value: str) -> frozenset[str]:
    """Nodes that one dominating value is computed from, itself among them, but not those that an earlier one is.

    Args:
        graph: both are in.
        before: name of the earlier value, which is not among them.
        value: name of the later one.
    """
    inside, names = stretches(graph), dominating_values(graph)
    return frozenset[str]().union(*(inside[name] for name in names[names.index(before) + 1 : names.index(value) + 1]))


def cut_points(graph: Graph, spaces: ChannelSpaces) -> tuple[CutPoint, ...]:
    """Where a layer can be inserted, in order: dominating values with exactly one channel axis, inputs and outputs left out.

    Branches of a residual block or of a concatenation hold none, for the other branch passes them by. Of values that
    follow one another with nothing but norms and element-wise functions between them, such as a convolution, its BatchNorm
    and its ReLU, one stands for all: the last that cannot be negative, or else the last. A value that has only been given
    another shape, as by a flatten, is none: a layer belongs where positions and channels still lie apart. O(#nodes).

    >>> import torch, gngraph
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = gngraph.from_torch(net, torch.zeros(1, 4))
    >>> [(point.value, point.width, point.nonnegative) for point in cut_points(graph, ChannelSpaces.of(graph))]
    [('_1', 8, True)]
    """
    nonnegative = _nonnegative(graph)
    found: list[CutPoint] = []
    before: CutPoint | None = None
    reshaped = False
    for name in dominating_values(graph):
        point = _point(graph, spaces, name, name in nonnegative)
        if point is not None:
            continues = before is not None and _continues(graph, before, point)
            if not continues:
                reshaped = before is not None and _reshapes(graph, before, point)
            if not reshaped and not continues:
                found.append(point)
            elif not reshaped and (point.nonnegative or not found[-1].nonnegative):
                found[-1] = point
        before = point
    return tuple(found)


def _point(graph: Graph, spaces: ChannelSpaces, name: str, nonnegative: bool) -> CutPoint | None:
    type_ = graph.nodes[name].type
    if name in graph.inputs or name in graph.outputs or not isinstance(type_, TensorType):
        return None
    rank = len(type_.shape)
    axes = [axis for axis in range(1, rank) if (name, axis) in spaces.layouts]
    fits = len(axes) == 1 and (axes[0] == rank - 1 or (axes[0] == 1 and rank <= 5))
    alone = fits and isinstance(type_.shape[axes[0]], int)  # not beside the samples
    return CutPoint(name, type_, axes[0], nonnegative) if alone else None


def _continues(graph: Graph, before: CutPoint, point: CutPoint) -> bool:
    """Whether a value is the one before it, worked on entry by entry or channel by channel by something that is no layer."""
    node, same = graph.nodes[point.value], (before.type, before.axis) == (point.type, point.axis)
    spec = lookup(node.op)
    return same and node.inputs == (before.value,) and spec.channelwise and spec.apply is None


def _reshapes(graph: Graph, before: CutPoint, point: CutPoint) -> bool:
    """Whether a value has exactly the entries of the one before it."""
    node = graph.nodes[point.value]
    return lookup(node.op).rearranges and node.inputs[0] == before.value


def _nonnegative(graph: Graph) -> set[str]:
    known: set[str] = set()
    for node in graph.nodes.values():
        if lookup(node.op).is_nonnegative(node, known):
            known.add(node.name)
    return known
