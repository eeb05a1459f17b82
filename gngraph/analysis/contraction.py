"""Products of two values that sum over channels, as of queries and keys: what writes one side is what reads the other.

The sum stays what it was where a new channel is zero on one side, and where copies of one share the other side's weight. So the
weights by which one side is in proportion read the channels that the other side writes. Which weights those are is followed back
from the product, through what keeps proportions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from gngraph.analysis.boxes import TAKING_APART, Bounds, Box, Origin, common, handed, origins, sources, taken, within
from gngraph.ir import Graph, Node, TensorType
from gngraph.ops import Layout, lookup


class Side(NamedTuple):
    """An axis of a value that a product sums over."""

    value: str
    axis: int


class Across(NamedTuple):
    """A product that sums over what a parameter writes, and the side of it that the parameter so reads.

    Attributes:
        node: the product.
        side: what the parameter reads.
        alike: whether all channels are made of the parameter in the same way, so that what one reads can be rebuilt from others;
            they are not where each is multiplied by a number of its own, as by a rotary position.
    """

    node: str
    side: Side
    alike: bool


class AxisStretch(NamedTuple):
    """Entries `start` to `end` - 1 of an axis of a parameter."""

    param: str
    axis: int
    start: int
    end: int


@dataclass(frozen=True)
class Contraction:
    """A product that sums over an axis of two values.

    Attributes:
        node: the product.
        sides: what it sums over.
        reason: why the channels are frozen where neither side is in proportion to weights of its own.
        place: node that sums, which the reason names: the product itself, or what alone reads it.
        counted: axis over which `place` else takes a statistic that counts the channels; None where it takes none.
    """

    node: str
    sides: tuple[Side, Side]
    reason: str
    place: str
    counted: int | None = None


@dataclass(frozen=True)
class Axes:
    """What is known of the axes of a graph.

    Attributes:
        graph: the graph.
        values: node -> the layouts by axis of its value, or of each of its items, all resolved.
        params: (parameter, axis) -> its layout, where it writes or accompanies channels.
    """

    graph: Graph
    values: Mapping[str, Sequence[Mapping[int, Layout]]]
    params: Mapping[tuple[str, int], Layout]


def read_across(axes: Axes, contractions: Sequence[Contraction]) -> dict[AxisStretch, tuple[Across, ...]] | None:
    """The weights by which one side of every product reads the other; None where there are none.

    Args:
        axes: of the graph.
        contractions: all that share channels.
    """
    for first in (1, 0):
        found = _of_sides(axes, contractions, first)
        if found is not None:
            return found
    return None


def stretch_of(stretches: Iterable[AxisStretch], axis: int, start: int) -> AxisStretch | None:
    """The stretch that entries of a parameter from `start` on lie in; None where they lie in none.

    Args:
        stretches: of the parameter.
        axis: of it.
        start: where channels begin on that axis.
    """
    return next((s for s in stretches if s.axis == axis and s.start <= start < s.end), None)


def factors_of(graph: Graph, reader: Node, axis: int) -> tuple[str, tuple[Side, Side]] | None:
    """The product of two values, entry by entry, that a node alone reads, be it laid out anew on the way.

    Args:
        graph: has the node.
        reader: reads one value.
        axis: of that value, along which both factors have all entries.

    Returns:
        The product and its two sides along the axis; None where what is read is anything else.
    """
    product = graph.nodes[reader.inputs[0]]
    while lookup(product.op).rearranges and graph.users(product.name) == (reader.name,):
        places = sources(graph, product, axis)
        if len(places) != 1 or product.name in graph.outputs:
            return None
        ((name, axis),) = places
        reader, product = product, graph.nodes[name]
    spec, factors = lookup(product.op), dict.fromkeys(product.inputs)
    if len(factors) != 2 or len(product.inputs) != 2 or product.params or not spec.channelwise:
        return None
    if graph.users(product.name) != (reader.name,) or product.name in graph.outputs:
        return None
    if spec.is_linear(product, factors) or not all(spec.is_linear(product, (name,)) for name in factors):
        return None
    sides: list[Side] = []
    for name in factors:
        type_ = graph.nodes[name].type
        shape = type_.shape if isinstance(type_, TensorType) else ()
        own = axis - len(product.shape) + len(shape)
        if own < 0 or shape[own] != product.shape[axis]:
            return None
        sides.append(Side(name, own))
    return product.name, (sides[0], sides[1])


def shifts(graph: Graph, node: Node, changed: Iterable[str]) -> bool:
    """Whether a node that is affine in some inputs may give something else than 0 where those are 0.

    Args:
        graph: has the node.
        node: any.
        changed: some of its inputs.
    """
    changed = tuple(changed)
    others = [i for i in node.inputs if i not in changed and isinstance(graph.nodes[i].type, TensorType)]
    adds = bool(others) and lookup(node.op).is_linear(node, (*changed, *others))
    scales = node.op in ("mul", "div")
    return adds or any((key.startswith("literal") and not scales) or key == "value" for key in node.attrs)


def _of_sides(
    axes: Axes, contractions: Sequence[Contraction], first: int
) -> dict[AxisStretch, tuple[Across, ...]] | None:
    """The weights of one side of each product, of the side `first` where it has such; None where they are not apart."""
    passed = _Passed(axes)
    found: dict[AxisStretch, list[Across]] = {}
    chosen: dict[tuple[str, str], str] = {}
    for contraction in contractions:
        for place in (first, 1 - first):
            side, other = contraction.sides[place], contraction.sides[1 - place]
            own = _Passed(axes)
            if side.value != other.value and own.follow(contraction.node, side.value, side.axis) is not None:
                break
        else:
            return None
        chosen[contraction.node, side.value] = other.value
        passed.add(own)
        stretches = own.stretches(int(axes.graph.nodes[other.value].shape[other.axis]))
        if stretches is None:
            return None
        for stretch in stretches:
            found.setdefault(stretch, []).append(Across(contraction.node, other, own.alike))
    groups = {tuple(places) for places in found.values()}
    products = [place for group in groups for place in group]
    if not passed.alone(chosen) or len(set(products)) < len(products):  # several groups of weights would share one
        return None
    return {stretch: tuple(places) for stretch, places in found.items()}


@dataclass
class _Passed:
    """What is passed on the way back from a product to the weights that it is in proportion to.

    Attributes:
        axes: of the graph.
        boxes: (value, its reader on the way) -> what the reader sees of the value that lies on the way.
        beside: values that something on the way is multiplied by.
        weights: what was found, and the nodes that multiply by it.
        alike: whether all channels are made of the weights in the same way.
    """

    axes: Axes
    boxes: dict[tuple[str, str], set[Box]] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    weights: dict[AxisStretch, set[str]] = field(default_factory=dict)
    alike: bool = True

    def add(self, other: _Passed) -> None:
        """All that another passed as well."""
        for edge, boxes in other.boxes.items():
            self.boxes.setdefault(edge, set()).update(boxes)
        for stretch, nodes in other.weights.items():
            self.weights.setdefault(stretch, set()).update(nodes)
        self.beside |= other.beside
        self.alike = self.alike and other.alike

    def stretches(self, length: int) -> list[AxisStretch] | None:
        """The weights that were found, without gaps; None where one of those is no whole number of sides of `length` entries.

        A channel may be read by several stretches, such as the halves of queries that a position turns.
        """
        found: list[AxisStretch] = []
        for stretch in sorted(self.weights):
            last = found[-1] if found else None
            if last is not None and last[:2] == stretch[:2] and stretch.start <= last.end:
                found[-1] = last._replace(end=max(last.end, stretch.end))
            else:
                found.append(stretch)
        whole = all(
            (end - start) % length == 0 and self._of_channels(param, axis, start, end)
            for param, axis, start, end in found
        )
        return found if whole else None

    def _of_channels(self, param: str, axis: int, start: int, end: int) -> bool:
        """Whether a stretch of weights has channels, and not some of the entries of one."""
        return {start, end} <= {0, *accumulate(segment.length for segment in self.axes.params[param, axis])}

    def follow(self, reader: str, name: str, axis: int, box: Box | None = None) -> Box | None:
        """The box of a value that is in proportion to weights along an axis, which are noted; None where it is not.

        Args:
            reader: node that sees the value.
            name: the value.
            axis: of it.
            box: of it, that is asked for; None for the whole. What is given is the whole of axes along which all entries are
                in proportion to the same weights, such as positions.
        """
        graph, node = self.axes.graph, self.axes.graph.nodes[name]
        if not isinstance(node.type, TensorType) or name in graph.outputs or axis not in self.axes.values[name][0]:
            return None
        if not isinstance(node.type.shape[axis], int):
            return None
        box = box or (None,) * len(node.type.shape)
        if node.params:
            found = self._of_weights(node, axis, box)
        else:
            found = self._behind(node, axis, box)
        if found is not None:
            self.boxes.setdefault((name, reader), set()).add(found)
        return found

    def alone(self, chosen: Mapping[tuple[str, str], str]) -> bool:
        """Whether nothing but the products sees what was passed.

        Args:
            chosen: product, and the value of it from which was followed -> what is on its other side.
        """
        graph = self.axes.graph
        values: dict[str, set[Box]] = {}
        for (name, _), boxes in self.boxes.items():
            values.setdefault(name, set()).update(boxes)
        return (
            values.keys().isdisjoint(self.beside.union(chosen.values()))
            and all(
                node in multiplied or lookup(graph.nodes[node].op).of_sizes
                for stretch, multiplied in self.weights.items()
                for node, _ in graph.readers(stretch.param)
            )
            and all(
                (reader.name, name) in chosen or self._lies_on_the_way(name, reader, boxes)
                for name, boxes in values.items()
                for reader in self._readers(name)
            )
        )

    def _readers(self, name: str) -> Iterator[Node]:
        """The nodes that read a value, or an item of it where it is taken apart."""
        graph = self.axes.graph
        for user in graph.users(name):
            pieces = graph.nodes[user].op in TAKING_APART
            yield from (graph.nodes[reader] for reader in (graph.users(user) if pieces else (user,)))

    def _lies_on_the_way(self, name: str, reader: Node, boxes: Iterable[Box]) -> bool:
        """Whether all that a node sees of some boxes of a value is passed through it, or it reads sizes alone."""
        if lookup(reader.op).of_sizes:
            return True
        part = taken(self.axes.graph, reader)
        seen = [box if part is None else common(box, part.box) for box in boxes]
        passed = self.boxes.get((name, reader.name), ())
        return all(box is None or any(within(box, other) for other in passed) for box in seen)

    def _of_weights(self, node: Node, axis: int, box: Box) -> Box | None:
        """As of `follow`, for a node that multiplies by weights with an entry for each of an axis, which are noted."""
        roles = [role for role in _factors(node) if role in node.params]
        layout, length = self.axes.values[node.name][0][axis], int(node.shape[axis])
        for role in roles:
            param = node.params[role]
            held = self.axes.graph.params[param]
            places = [own for (name, own), other in self.axes.params.items() if name == param and other == layout]
            if held.kind != "parameter" or len(places) != 1 or held.data.shape[places[0]] != length:
                return None
            stretch = AxisStretch(param, places[0], *(box[axis] or (0, length)))
            self.weights.setdefault(stretch, set()).add(node.name)
        through = bool(node.inputs) and any(name == node.inputs[0] for name, _ in sources(self.axes.graph, node, axis))
        self.alike = self.alike and not through  # as through a norm, entry by entry
        for bias in node.inputs[1:] if lookup(node.op).apply is not None else ():  # one that the forward computes
            if self.follow(node.name, bias, 0, (box[axis],)) is None:
                return None
        return tuple(bounds if i == axis else None for i, bounds in enumerate(box)) if roles else None

    def _behind(self, node: Node, axis: int, box: Box) -> Box | None:
        """As of `follow`, by what a node reads."""
        for before, beside in self._ways(node, axis, box):
            way = _Passed(self.axes, beside=set(beside), alike=not beside)
            found = way._from(node, before, box)
            if found is not None:
                self.add(way)
                return found
        return None

    def _from(self, node: Node, before: Iterable[Origin], box: Box) -> Box | None:
        """As of `follow`, for a box of a node's value that lay elsewhere before."""
        known: list[Mapping[int, Bounds | None]] = []
        for value, place, boxes, axes in before:
            for part in boxes:
                found = self.follow(node.name, value, place, part)
                if found is None:
                    return None
                known.append({own: found[other] for own, other in axes.items()})
        told = [all(of_one.get(i) is not None for of_one in known) for i in range(len(box))]
        return tuple(bounds if told[i] else None for i, bounds in enumerate(box)) if known else None

    def _ways(self, node: Node, axis: int, box: Box) -> Iterator[tuple[Sequence[Origin], Sequence[str]]]:
        """Where a box lay before in all that a node keeps proportions of, and what it multiplies that by; or in what else."""
        graph, layout = self.axes.graph, self.axes.values[node.name][0][axis]
        joins = node.op == "cat" and node.attrs["dim"] % len(box) == axis
        if joins or node.op == "reshape" or taken(graph, node) is not None:
            yield origins(graph, node, axis, box), ()
            return
        before: dict[str, int] = {}
        for name, place in sources(graph, node, axis):
            if isinstance(graph.nodes[name].type, TensorType) and self.axes.values[name][0].get(place) == layout:
                if name in before:
                    return
                before[name] = place
        spec, changed = lookup(node.op), tuple(name for name in dict.fromkeys(node.inputs) if name in before)
        if not changed or shifts(graph, node, changed):
            return
        together = spec.is_linear(node, changed)
        alone = [(name,) for name in changed if spec.is_linear(node, (name,)) and node.inputs.count(name) == 1]
        for followed in [changed] if together else alone:
            places = [handed(graph, node, axis, name, before[name], box) for name in followed]
            yield places, [name for name in changed if name not in followed]


_PRODUCTS = ("addmm", "einsum", "matmul", "transposed_linear")
"""Ops whose value is in proportion to their weight and bias, beside layers that are given another weight by `OpSpec.apply`."""


def _factors(node: Node) -> tuple[str, ...]:
    """Roles of the parameters that a node's value is in proportion to, all together; none where it is not."""
    spec = lookup(node.op)
    for statistics in (spec.counts if spec.counts is not None and spec.counts.norm else None, spec.statistics):
        if statistics is not None:
            return (statistics.scale, statistics.shift) if statistics.scale in node.params else ()
    if node.op == "parameter":
        return ("value",)
    plain = (spec.apply is not None and spec.computed is None) or spec.looked_up is not None or node.op in _PRODUCTS
    return ("weight", "bias") if plain and node.params.keys() <= {"weight", "bias"} else ()
