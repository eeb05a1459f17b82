"""Products of two values that sum over channels, as of queries and keys: what writes one side is what reads the other.

The sum stays what it was where a new channel is zero on one side, and where copies of one share the other side's weight. So the
weights by which one side is in proportion read the channels that the other side writes. Which weights those are is followed back
from the product, through what keeps proportions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gngraph.ir import Graph, Node, Ref, Slice, TensorType, TupleType
from gngraph.ops import Layout, lookup


class Side(NamedTuple):
    """An axis of a value that a product sums over."""

    value: str
    axis: int


class Across(NamedTuple):
    """A product that sums over what a parameter writes, and the side of it that the parameter so reads."""

    node: str
    side: Side


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
    """

    node: str
    sides: tuple[Side, Side]
    reason: str


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
            if side.value != other.value and own.follow(side.value, side.axis):
                break
        else:
            return None
        chosen[contraction.node, side.value] = other.value
        passed.add(own)
        for stretch in own.weights:
            found.setdefault(stretch, []).append(Across(contraction.node, other))
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
        ranges: node -> what lies on the way of its value, or of what it takes apart: an axis, first entry and end.
        beside: values that something on the way is multiplied by.
        weights: what was found.
    """

    axes: Axes
    ranges: dict[str, set[tuple[int, int, int]]] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    weights: set[AxisStretch] = field(default_factory=set)

    def add(self, other: _Passed) -> None:
        """All that another passed as well."""
        for name, ranges in other.ranges.items():
            self.ranges.setdefault(name, set()).update(ranges)
        self.beside |= other.beside
        self.weights |= other.weights

    def follow(self, name: str, axis: int, bounds: tuple[int, int] | None = None) -> bool:
        """Whether a stretch of an axis is in proportion to weights, which are noted.

        Args:
            name: a value.
            axis: of it.
            bounds: first entry and end; None for the whole axis.
        """
        graph, node = self.axes.graph, self.axes.graph.nodes[name]
        if not isinstance(node.type, TensorType) or name in graph.outputs or axis not in self.axes.values[name][0]:
            return False
        length = node.type.shape[axis]
        if not isinstance(length, int):
            return False
        bounds = bounds or (0, length)
        self.ranges.setdefault(name, set()).add((axis, *bounds))
        if node.params:
            return self._note(node, axis, length, bounds)
        taken = _taken(graph, node)
        if taken is not None and taken.axis == axis:
            if node.op == "getitem":
                self.ranges.setdefault(node.inputs[0], set()).add((axis, *taken.moved(bounds)))
            return self.follow(taken.value, axis, taken.moved(bounds))
        if node.op == "reshape":
            return bounds == (0, length) and self._of_heads(node, axis)
        return self._through(node, axis, bounds)

    def alone(self, chosen: Mapping[tuple[str, str], str]) -> bool:
        """Whether nothing but the products sees what was passed.

        Args:
            chosen: product, and the value of it from which was followed -> what is on its other side.
        """
        graph = self.axes.graph
        apart = self.beside.union(chosen.values())
        readers = {node for stretch in self.weights for node, _ in graph.readers(stretch.param)}
        return (
            self.ranges.keys().isdisjoint(apart)
            and all(node in self.ranges or lookup(graph.nodes[node].op).of_sizes for node in readers)
            and all(
                (user, name) in chosen or self._sees_nothing(graph.nodes[user], ranges)
                for name, ranges in self.ranges.items()
                for user in graph.users(name)
            )
        )

    def _sees_nothing(self, user: Node, ranges: Iterable[tuple[int, int, int]]) -> bool:
        """Whether a node lies on the way itself, or reads sizes, or another stretch alone."""
        taken = _taken(self.axes.graph, user)
        if user.name in self.ranges or lookup(user.op).of_sizes:
            return True
        return taken is not None and all(
            axis == taken.axis and (end <= taken.start or taken.end <= start) for axis, start, end in ranges
        )

    def _note(self, node: Node, axis: int, length: int, bounds: tuple[int, int]) -> bool:
        """Whether a node multiplies by weights that have an entry for each of an axis, which are noted."""
        roles = [role for role in _factors(node) if role in node.params]
        layout = self.axes.values[node.name][0][axis]
        for role in roles:
            param = node.params[role]
            held = self.axes.graph.params[param]
            places = [own for (name, own), other in self.axes.params.items() if name == param and other == layout]
            if held.kind != "parameter" or len(places) != 1 or held.data.shape[places[0]] != length:
                return False
            self.weights.add(AxisStretch(param, places[0], *bounds))
        return bool(roles)

    def _through(self, node: Node, axis: int, bounds: tuple[int, int]) -> bool:
        """Whether a node keeps proportions of what it reads, which is followed."""
        graph, layout = self.axes.graph, self.axes.values[node.name][0][axis]
        item = node.attrs["index"] if node.op == "getitem" else 0
        sources: dict[str, int] = {}
        for name in dict.fromkeys(node.inputs):
            source = graph.nodes[name]
            if not isinstance(source.type, TensorType) and node.op != "getitem":
                continue
            own = [place for place, other in self.axes.values[name][item].items() if other == layout]
            if len(own) > 1:
                return False
            if own:
                sources[name] = own[0]
        spec, changed = lookup(node.op), tuple(sources)
        if not changed or shifts(graph, node, changed):
            return False
        if node.op == "getitem":
            return self._of_tuple(node.inputs[0], sources[node.inputs[0]], item, bounds)
        if spec.is_linear(node, changed):
            return all(self.follow(name, place, bounds) for name, place in sources.items())
        for name, place in sources.items():
            if spec.is_linear(node, (name,)) and node.inputs.count(name) == 1:
                self.beside |= set(changed) - {name}
                return self.follow(name, place, bounds)
        return False

    def _of_heads(self, node: Node, axis: int) -> bool:
        """Whether the same entries of all heads, which a reshape takes out of one axis, are in proportion to weights."""
        layout = self.axes.values[node.name][0][axis]
        for place, whole in self.axes.values[node.inputs[0]][0].items():
            if whole == layout * (len(whole) // len(layout)):
                return self.follow(node.inputs[0], place)
        return False

    def _of_tuple(self, name: str, axis: int, item: int, bounds: tuple[int, int]) -> bool:
        """Whether an item of a tuple is in proportion to weights: of one whose every item has all entries of an axis."""
        node = self.axes.graph.nodes[name]
        layout = self.axes.values[name][item][axis]
        places = [own for own, other in self.axes.values[node.inputs[0]][0].items() if other == layout]
        self.ranges.setdefault(name, set()).add((places[0] if places else axis, *bounds))
        whole = lookup(node.op).channelwise and lookup(node.op).is_linear(node, node.inputs) and not node.params
        return whole and len(places) == 1 and self.follow(node.inputs[0], places[0], bounds)


def _factors(node: Node) -> tuple[str, ...]:
    """Roles of the parameters that a node's value is in proportion to, all together; none where it is not."""
    spec = lookup(node.op)
    for statistics in (spec.counts if spec.counts is not None and spec.counts.norm else None, spec.statistics):
        if statistics is not None:
            return (statistics.scale, statistics.shift) if statistics.scale in node.params else ()
    if node.op == "parameter":
        return ("value",)
    plain = (spec.apply is not None and spec.computed is None) or node.op in ("matmul", "einsum")
    return ("weight", "bias") if plain and node.params.keys() <= {"weight", "bias"} else ()


class _Taken(NamedTuple):
    """A node that takes the entries `start` to `end` - 1 of an axis of a value."""

    value: str
    axis: int
    start: int
    end: int

    def moved(self, bounds: tuple[int, int]) -> tuple[int, int]:
        """A stretch of what is taken, in the value."""
        return bounds[0] + self.start, bounds[1] + self.start


def _taken(graph: Graph, node: Node) -> _Taken | None:
    """What a node takes of a value along one axis, leaving all others as they are; None for any other node."""
    if node.op == "getitem":
        pieces = graph.nodes[node.inputs[0]]
        if pieces.op not in ("chunk", "split") or not isinstance(pieces.type, TupleType):
            return None
        axis = pieces.attrs["dim"] % len(node.shape)
        before = pieces.type.items[: node.attrs["index"]]
        start = sum(int(item.shape[axis]) for item in before if isinstance(item, TensorType))
        return _Taken(pieces.inputs[0], axis, start, start + int(node.shape[axis]))
    if node.op != "index":
        return None
    parts = [(i, entry) for i, entry in enumerate(node.attrs["index"]) if entry != Slice(None, None, None)]
    axis, part = parts[0] if len(parts) == 1 else (0, None)
    length = graph.nodes[node.inputs[0]].shape[axis]
    if not isinstance(part, Slice) or part.step not in (None, 1) or not isinstance(length, int):
        return None
    bounds = (part.start, part.stop)
    if any(isinstance(bound, Ref) for bound in bounds):
        return None
    start, end, _ = slice(*bounds).indices(length)
    return _Taken(node.inputs[0], axis, start, end)
