"""Boxes, stretches of the axes of a value: where they lay before, and what two of them have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gngraph.ir import Graph, Node, Ref, Slice, TensorType, TupleType
from gngraph.ops import Operands, lookup, operands_of
from gngraph.ops.handed_on import handed_on
from gngraph.ops.reshape import regrouped
from gngraph.ops.sizes import factors, known_size

Bounds = tuple[int, int]
"""First entry and end of a stretch of an axis."""

Box = tuple[Bounds | None, ...]
"""A stretch of every axis of a value; None where it is the whole axis."""

TAKING_APART = ("chunk", "split", "unbind")
"""Ops that take a value apart, the items of which are parts of it."""


class Origin(NamedTuple):
    """Where a box of a node's value lay before.

    Attributes:
        value: what the node reads.
        axis: of it, along which lies what lies along an axis of the node's value.
        boxes: of it, which together are the box.
        axes: axis of the node's value -> the axis of the other value along which its entries lie, where that is known.
    """

    value: str
    axis: int
    boxes: Sequence[Box]
    axes: Mapping[int, int]


class Taken(NamedTuple):
    """What a node takes of a value: `box` of it; `axes` are for each axis of the node's own value that of it, None if new."""

    value: str
    box: Box
    axes: tuple[int | None, ...]


def origins(graph: Graph, node: Node, axis: int, box: Box) -> list[Origin]:
    """Where a box of what a node takes of a value, lays out anew, or joins lay before; none where that is not known.

    Args:
        graph: has the node.
        node: any.
        axis: of its value, counted from 0, along which the box is asked for.
        box: of its value.
    """
    if node.op == "reshape":
        return _reshaped(graph, node, axis, box)
    if node.op == "cat":
        return _joined(graph, node, axis, box)
    part = taken(graph, node)
    before = part.axes[axis] if part is not None else None
    if part is None or before is None:
        return []
    found = list(part.box)
    for bounds, own in zip(box, part.axes, strict=True):
        if bounds is not None and own is not None:
            start, _ = part.box[own] or (0, 0)
            found[own] = (bounds[0] + start, bounds[1] + start)
    axes = {place: own for place, own in enumerate(part.axes) if own is not None}
    return [Origin(part.value, before, [tuple(found)], axes)]


def handed(graph: Graph, node: Node, axis: int, source: str, place: int, box: Box) -> Origin:
    """Where a box lay before in one of the values that a node reads, entry by entry along an axis.

    Stretches of other axes are known before where the node only moves entries, else it is all of them.

    Args:
        graph: has the node.
        node: any that has along `axis` of its value what lies along axis `place` of `source`.
        axis: of its value, counted from 0.
        source: a value that it reads.
        place: axis of that.
        box: of the node's value.
    """
    axes, shape = {axis: place}, graph.nodes[source].shape
    stretched = [own for own, bounds in enumerate(box) if bounds is not None and own != axis]
    for own in stretched if lookup(node.op).rearranges else ():
        places = [found.axis for found in handed_on(_operands(graph, node), 0, own)]
        if len(places) == 1 and shape[places[0]] == node.shape[own]:
            axes[own] = places[0]
    return Origin(source, place, [_moved(box, axes, len(shape))], axes)


def sources(graph: Graph, node: Node, axis: int) -> set[tuple[str, int]]:
    """What a node reads that lies along an axis of its value, entry by entry: values, each with an axis of it.

    Of a product of two values that is what one side keeps, be the other side as long.

    Args:
        graph: has the node.
        node: any.
        axis: of its value, counted from 0.
    """
    return {(node.inputs[found.operand], found.axis) for found in handed_on(_operands(graph, node), 0, axis)}


def taken(graph: Graph, node: Node) -> Taken | None:
    """What a node takes of a value, stretches of axes or single entries; None for a node that does anything else.

    Args:
        graph: has the node.
        node: any.
    """
    if node.op == "index":
        return _indexed(graph, node)
    pieces = graph.nodes[node.inputs[0]] if node.op == "getitem" else node
    if node.op != "getitem" or pieces.op not in TAKING_APART or not isinstance(pieces.type, TupleType):
        return None
    rank, index = len(graph.nodes[pieces.inputs[0]].shape), node.attrs["index"]
    dim, axes = pieces.attrs["dim"] % rank, tuple(range(rank))
    if pieces.op == "unbind":
        bounds, axes = (index, index + 1), axes[:dim] + axes[dim + 1 :]
    else:
        before = pieces.type.items[:index]
        start = sum(int(item.shape[dim]) for item in before if isinstance(item, TensorType))
        bounds = (start, start + int(node.shape[dim]))
    return Taken(pieces.inputs[0], tuple(bounds if axis == dim else None for axis in range(rank)), axes)


def common(a: Box, b: Box) -> Box | None:
    """What two boxes of a value have in common; None where that is nothing."""
    found: list[Bounds | None] = []
    for x, y in zip(a, b, strict=True):
        both = (max(x[0], y[0]), min(x[1], y[1])) if x is not None and y is not None else x or y
        if both is not None and both[0] >= both[1]:
            return None
        found.append(both)
    return tuple(found)


def within(a: Box, b: Box) -> bool:
    """Whether a box of a value is part of another."""
    return all(y is None or (x is not None and y[0] <= x[0] and x[1] <= y[1]) for x, y in zip(a, b, strict=True))


def _indexed(graph: Graph, node: Node) -> Taken | None:
    shape, operands = graph.nodes[node.inputs[0]].shape, _operands(graph, node)
    box: list[Bounds | None] = []
    axes: list[int | None] = []
    for entry in node.attrs["index"]:
        if entry is None:
            axes.append(None)
            continue
        length = shape[len(box)]
        if isinstance(entry, Slice):
            axes.append(len(box))
        if entry == Slice(None, None, None):
            box.append(None)
        elif isinstance(entry, int) and isinstance(length, int):
            box.append((entry % length, entry % length + 1))
        elif isinstance(entry, Slice) and isinstance(length, int) and entry.step in (None, 1):
            ends = [known_size(b, operands) if isinstance(b, Ref) else b for b in (entry.start, entry.stop)]
            if any(isinstance(end, str) for end in ends):
                return None
            box.append(slice(*ends).indices(length)[:2])
        else:
            return None
    rest = range(len(box), len(shape))
    return Taken(node.inputs[0], (*box, *(None for _ in rest)), (*axes, *rest))


def _reshaped(graph: Graph, node: Node, axis: int, box: Box) -> list[Origin]:
    """Stretches of one axis, where a reshape spreads that over several, and axes that it leaves as they are."""
    old, axes = graph.nodes[node.inputs[0]].shape, dict[int, int]()
    own: int | None = None
    stretches: list[Bounds] = []
    for before, behind in regrouped(_operands(graph, node)):
        real = [i for i in before if factors(old[i])[0] != 1] or list(before)
        if axis in behind and len(real) == 1:
            lengths = [factors(node.shape[i])[0] for i in behind]
            bounds = [box[i] or (0, length) for i, length in zip(behind, lengths, strict=True)]
            own, stretches = real[0], _stretches(lengths, bounds)
            axes |= dict.fromkeys(behind, real[0])
        elif len(real) == 1:
            axes |= {i: real[0] for i in behind if node.shape[i] == old[real[0]]}
    if own is None:
        return []
    others = {place: before for place, before in axes.items() if before != own}
    whole = _moved(box, others, len(old))
    boxes = [tuple(bounds if i == own else part for i, part in enumerate(whole)) for bounds in stretches]
    return [Origin(node.inputs[0], own, boxes, axes)]


def _joined(graph: Graph, node: Node, axis: int, box: Box) -> list[Origin]:
    """The parts of what is joined along `axis` which the box lies in."""
    first, last = box[axis] or (0, int(node.shape[axis]))
    found: list[Origin] = []
    before = 0
    for name in node.inputs:
        length = int(graph.nodes[name].shape[axis])
        start, end = max(first - before, 0), min(last - before, length)
        if start < end:
            part = tuple((start, end) if i == axis else bounds for i, bounds in enumerate(box))
            found.append(Origin(name, axis, [part], {i: i for i in range(len(box))}))
        before += length
    return found


def _moved(box: Box, axes: Mapping[int, int], rank: int) -> Box:
    """A box by axes of another value, of `rank` axes: axis -> that of the other value."""
    places = {before: own for own, before in axes.items()}
    return tuple(box[places[i]] if i in places else None for i in range(rank))


def _stretches(lengths: Sequence[int], bounds: Sequence[Bounds]) -> list[Bounds]:
    """The stretches of an axis, spread over axes of these lengths, that a stretch of each of those is."""
    found = [(0, 1)]
    for length, (start, end) in zip(lengths, bounds, strict=True):
        if (start, end) == (0, length):
            found = [(first * length, last * length) for first, last in found]
        else:
            places = [i for first, last in found for i in range(first, last)]
            found = [(i * length + start, i * length + end) for i in places]
    return found


def _operands(graph: Graph, node: Node) -> Operands:
    return operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
