"""How axes of a graph are coupled, read off node by node by the channel rules of the ops.

A rule says how the axes of an op's inputs, parameters and value are coupled; what it does not understand is frozen with a
reason that names the node. O(#nodes + #segments), 10 ms for DenseNet-121.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gngraph.analysis.contraction import (
    Across,
    Axes,
    AxisStretch,
    Contraction,
    Side,
    factors_of,
    read_across,
    stretch_of,
)
from gngraph.analysis.cuttable import Cuttable
from gngraph.ir import Dim, Graph, Node, TensorType, TupleType, Type
from gngraph.ops import Layout, Operands, Segment, lookup, operands_of
from gngraph.ops.spec import AttrPath, Fresh

Use = Literal["produce", "follow", "consume"]
"""What a parameter axis does with channels: writes, accompanies or reads them."""

NETWORK_OUTPUT = "it is the network's output"
"""Why the channels of an output are frozen."""

UNWRITTEN = "no layer writes it"
"""Why what is concatenated with channels, and belongs to none, is frozen."""

_BESIDE_NO_SPACE = "it is concatenated with a value that belongs to no channel space"


@dataclass(frozen=True)
class Bound:
    """A parameter axis that holds channels, as the first node that uses it so said."""

    param: str
    axis: int
    layout: Layout
    use: Use
    fresh: Fresh
    node: str


@dataclass(frozen=True)
class Coupled:
    """The axes of a graph as its nodes couple them.

    Attributes:
        sets: the channels, by variable.
        values: node -> the layouts by axis of its value, or of each of its items.
        slots: (parameter, axis) -> how it holds channels.
        tied: the same for axes that are written through as well: rows of a table that a layer reads again.
        measured: (node, path) -> the layout whose length an integer attribute gives.
        counted: node -> axes of its first input over which it takes statistics, or the first channels of which it takes for them.
        across: parameter -> stretches of its `slots` that read what a product sums over, by what they write themselves.
    """

    sets: Cuttable
    values: Mapping[str, Sequence[Mapping[int, Layout]]]
    slots: Mapping[tuple[str, int], Bound]
    tied: Mapping[tuple[str, int], Bound]
    measured: Mapping[tuple[str, AttrPath], Layout]
    counted: Mapping[str, tuple[int, ...]]
    across: Mapping[str, Mapping[AxisStretch, tuple[Across, ...]]]


def coupled(graph: Graph) -> Coupled:
    """The axes of `graph`, by the channel rules of all of its nodes."""
    rules = _Coupling(graph)
    return Coupled(rules.sets, rules.values, rules.slots, rules.tied, rules.measured, rules.counted, rules.across)


class _Coupling:
    """Implements `gngraph.ops.ChannelRules`, one node at a time."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sets = Cuttable()
        self.values: dict[str, list[dict[int, Layout]]] = {}
        self.slots: dict[tuple[str, int], Bound] = {}
        self.tied: dict[tuple[str, int], Bound] = {}
        self.measured: dict[tuple[str, AttrPath], Layout] = {}
        self.counted: dict[str, tuple[int, ...]] = {}
        self.across: dict[str, dict[AxisStretch, tuple[Across, ...]]] = {}
        self._contractions: list[tuple[Contraction, Layout]] = []
        self._bound: dict[tuple[str, int], Layout | None] = {}
        self._blank: list[tuple[Node, Layout]] = []
        self._unwritten: list[tuple[Node, Layout, Layout]] = []  # where it is joined, the whole, and its part
        self._declared: set[tuple[str, str, int]] = set()  # node, parameter, axis
        self._node: Node = next(iter(graph.nodes.values()))
        for node in graph.nodes.values():
            self._at(node)
            count = len(node.type.items) if isinstance(node.type, TupleType) else 1
            self.values[node.name] = [{} for _ in range(max(count, 1))]
            operands = operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
            lookup(node.op).channels(self, operands)
            self._hold_unlike()
            self._hold_undeclared()
            self._hold_beside_samples(operands)
        for name in graph.outputs:
            self._at(graph.nodes[name])
            for item in self.values[name]:
                for layout in item.values():
                    self.freeze(layout, NETWORK_OUTPUT)
        self._hold_beside_unread()
        self._settle_contractions()
        self._hold_constants()

    def _at(self, node: Node) -> None:
        self._node, self.sets.place = node, f"node '{node.module or node.name}'"

    def _hold_beside_unread(self) -> None:
        """Channels stay beside what no layer writes, unless layers read both: else it is tokens, or pixels, that are joined."""
        uses: dict[int, set[Use]] = {}
        for bound in self.slots.values():
            for segment in self.sets.resolve(bound.layout):
                uses.setdefault(segment.var, set()).add(bound.use)
        for node, joined, unwritten in self._unwritten:
            self._at(node)
            if any("produce" in uses.get(segment.var, {"produce"}) for segment in self.sets.resolve(unwritten)):
                self.freeze(joined, _BESIDE_NO_SPACE)

    def _settle_contractions(self) -> None:
        """What products sum over is read by the weights of one side, or stays as it is."""
        together: dict[int, list[tuple[Contraction, Layout]]] = {}
        for contraction, layout in self._contractions:
            first = min(segment.var for segment in self.sets.resolve(layout))
            together.setdefault(first, []).append((contraction, layout))
        axes = self._axes() if together else None
        for group in together.values():
            found = read_across(axes, [contraction for contraction, _ in group]) if axes is not None else None
            for stretch, places in (found or {}).items():
                self.across.setdefault(stretch.param, {})[stretch] = places
            for contraction, layout in group if found is None else ():
                self._at(self.graph.nodes[contraction.place])
                if contraction.counted is not None:
                    self.count(contraction.counted)
                else:
                    self.freeze(layout, contraction.reason)

    def _axes(self) -> Axes:
        resolve = self.sets.resolve
        values = {
            name: [{axis: resolve(layout) for axis, layout in item.items()} for item in items]
            for name, items in self.values.items()
        }
        writers = {key: resolve(bound.layout) for key, bound in self.slots.items() if bound.use != "consume"}
        return Axes(self.graph, values, writers)

    def _hold_constants(self) -> None:
        """Channels that come from constants stay: one more would be a column of numbers that nobody gave and nothing learns.

        A buffer that is a layer's weight writes, whatever else does; a parameter was learned, also where training holds it
        for now. A constant that is read as a value (positions, a mask, a scale) writes only where nothing else does, else it
        accompanies the channels of what is learned.
        """
        writers: dict[int, list[Bound]] = {}
        for raw in (*self.slots.values(), *self.tied.values()):
            start = 0
            for segment in self.sets.resolve(raw.layout) if raw.use == "produce" else ():
                if stretch_of(self.across.get(raw.param, ()), raw.axis, start) is None:
                    writers.setdefault(segment.var, []).append(raw)
                start += segment.length
        for node, layout in self._blank:
            self._at(node)
            for segment in self.sets.resolve(layout):
                if segment.var not in writers:
                    self.freeze((segment,), "it is filled with numbers that are not learned")
        for var, slots in writers.items():
            values = [raw for raw in slots if self.graph.nodes[raw.node].op == "parameter"]
            layers = [raw for raw in slots if raw not in values and self.graph.params[raw.param].kind != "parameter"]
            constants = [raw for raw in values if not self.graph.params[raw.param].trainable]
            for raw in layers or (constants if len(constants) == len(slots) else []):
                self._at(self.graph.nodes[raw.node])
                what = self.graph.params[raw.param].kind
                self.freeze(
                    (Segment(var, self.sets.sizes[var]),),
                    f"it is written by the {what} '{raw.param}', which is not learned",
                )

    def _hold_unlike(self) -> None:
        """Channels stay that a node hands on along an axis of other length, such as positions that are pooled."""
        for item, layouts in enumerate(self.values[self._node.name]):
            for axis, layout in list(layouts.items()):
                length = _length(self._node.type, axis, item)
                if length is not None and length != sum(segment.length for segment in layout):
                    self.freeze(layouts.pop(axis), f"{self._node.op} changes how many there are")

    def _hold_undeclared(self) -> None:
        """Parameter axes that the node's rule says nothing of must stay as they are, also for other readers of a tied weight."""
        for param in self._node.params.values():
            for axis in range(self.graph.params[param].data.dim()):
                if (self._node.name, param, axis) not in self._declared:
                    self.freeze(self._bound.get((param, axis)), f"it is an axis of '{param}' that must keep its size")
                    self._bound.setdefault((param, axis), None)

    def _hold_beside_samples(self, operands: Operands) -> None:
        """Channels that go with the samples along one axis must stay, unless the node's rule has handed them on.

        Most rules are made for axes on which samples stand alone.
        """
        beside = [
            layout
            for name, type_ in zip(operands.node.inputs, operands.inputs, strict=True)
            for axis, size in enumerate(type_.shape if isinstance(type_, TensorType) else ())
            if isinstance(size, str) and (layout := self.values[name][0].get(axis)) is not None
        ]
        if not beside or lookup(operands.node.op).of_sizes:
            return
        given = {
            segment.var
            for item in self.values[operands.node.name]
            for layout in item.values()
            for segment in self.sets.resolve(layout)
        }
        for layout in beside:
            if any(segment.var not in given for segment in self.sets.resolve(layout)):
                self.freeze(layout, f"it goes with the batch axis, and {operands.node.op} does not hand it on")

    # --- gngraph.ops.ChannelRules

    def layout(self, operand: int, axis: int) -> Layout | None:
        found = self.values[self._node.inputs[operand]][0].get(axis)
        return None if found is None else self.sets.resolve(found)

    def item_layouts(self, operand: int, item: int) -> Mapping[int, Layout]:
        items = self.values[self._node.inputs[operand]]
        return {axis: self.sets.resolve(layout) for axis, layout in items[item].items()}

    def produce(self, role: str, axis: int) -> Layout:
        param = self._node.params[role]
        raw = self.slots.get((param, axis))  # what is held at its size keeps the layout that it was first given
        known = self._bound.get((param, axis)) or (raw.layout if raw is not None else None)
        size = self.graph.params[param].data.shape[axis]
        layout = known if known is not None else (Segment(self.sets.new(size), size),)
        self._bind(param, axis, layout, "produce", "random")
        return self.sets.resolve(layout)

    def see(self, role: str, axis: int) -> Layout | None:
        key = param, _ = self._node.params[role], axis
        self._declared.add((self._node.name, param, axis))
        if key not in self._bound:
            size = self.graph.params[param].data.shape[axis]
            self._bound[key] = (Segment(self.sets.new(size), size),)
        layout = self._bound[key]
        return None if layout is None else self.sets.resolve(layout)

    def follow(self, role: str, axis: int, layout: Layout | None, fresh: Fresh) -> None:
        self._bind(self._node.params[role], axis, layout, "follow", fresh)

    def consume(self, role: str, axis: int, layout: Layout | None) -> None:
        self._bind(self._node.params[role], axis, layout, "consume", "zeros")

    def unify(self, layouts: list[Layout | None]) -> Layout | None:
        return self.sets.unify(layouts)

    def join(self, layouts: Sequence[Layout | None], sizes: Sequence[Dim]) -> Layout | None:
        unwritten = {i: size for i, size in enumerate(sizes) if layouts[i] is None}
        if len(unwritten) == len(layouts):
            return None
        if not all(isinstance(size, int) for size in unwritten.values()):
            for layout in layouts:
                self.freeze(layout, _BESIDE_NO_SPACE)
            return None
        given = {i: (Segment(self.sets.new(int(size)), int(size)),) for i, size in unwritten.items()}
        for own in given.values():
            self.freeze(own, UNWRITTEN)
        parts = (given[i] if layout is None else layout for i, layout in enumerate(layouts))
        joined = tuple(itertools.chain.from_iterable(parts))
        if given:
            self._unwritten.append((self._node, joined, tuple(segment for own in given.values() for segment in own)))
        return joined

    def divide(self, layout: Layout | None, lengths: Sequence[int], reason: str) -> list[Layout | None]:
        return self.sets.divide(layout, lengths, reason)

    def group(self, layout: Layout | None, entries: int, reason: str) -> Layout | None:
        return self.sets.group(layout, entries, reason)

    def blank(self, size: int) -> Layout:
        layout = (Segment(self.sets.new(size), size),)
        self._blank.append((self._node, layout))
        return layout

    def same_amount(self, a: Layout | None, b: Layout | None) -> bool:
        return self.sets.amounts(a) == self.sets.amounts(b)

    def contract(self, axes: Sequence[tuple[int, int]], reason: str) -> None:
        layouts = [self.layout(operand, axis) for operand, axis in axes]
        layout = self.unify(layouts) if None not in layouts else None
        if layout is None:
            for own in layouts:
                self.freeze(own, reason)
            return
        first, second = (Side(self._node.inputs[operand], axis) for operand, axis in axes)
        name = self._node.name
        self._contractions.append((Contraction(name, (first, second), reason, name), layout))

    def sum_factors(self, axis: int, reason: str, *, counts: bool) -> bool:
        found, layout = factors_of(self.graph, self._node, axis), self.layout(0, axis)
        if found is None or layout is None:
            return False
        product, sides = found
        contraction = Contraction(product, sides, reason, self._node.name, axis if counts else None)
        self._contractions.append((contraction, layout))
        return True

    def freeze(self, layout: Layout | None, reason: str) -> None:
        self.sets.freeze(layout, reason)

    def held(self, layout: Layout | None) -> bool:
        return self.sets.frozen(layout)

    def count(self, axis: int) -> None:
        self.counted[self._node.name] = (*self.counted.get(self._node.name, ()), axis)

    def only_counted(self, axis: int) -> bool:
        name, rank = self._node.name, len(self._node.shape)
        users = [self.graph.nodes[user] for user in self.graph.users(name)]
        counts = [(user, lookup(user.op).counts) for user in users]
        alone = users and name not in self.graph.outputs and all(user.inputs == (name,) for user in users)
        return bool(alone) and all(c is not None and not c.norm and axis in c.axes(user, rank) for user, c in counts)

    def unread(self) -> bool:
        return self._is_unread(self._node)

    def _is_unread(self, node: Node) -> bool:
        users = [self.graph.nodes[user] for user in self.graph.users(node.name)]
        seen = (lookup(u.op).of_sizes or (lookup(u.op).rearranges and self._is_unread(u)) for u in users)
        sized = isinstance(node.type, TensorType) and all(seen)
        return node.name not in self.graph.outputs and (sized or not users)

    def measure(self, path: AttrPath, layout: Layout | None) -> None:
        if layout is not None:
            self.measured[self._node.name, path] = layout

    def set(self, axis: int, layout: Layout | None, item: int = 0) -> None:
        if layout is not None:
            self.values[self._node.name][item][axis] = layout

    def _bind(self, param: str, axis: int, layout: Layout | None, use: Use, fresh: Fresh) -> None:
        key = (param, axis)
        fresh = "copied" if fresh == "random" and self._is_constant(param) else fresh
        self._declared.add((self._node.name, param, axis))
        if key in self._bound:
            self.unify([self._bound[key], layout])
            known = self.slots.get(key)
            if known is not None and layout is not None and known.use != use:
                self._tie(key, known, Bound(param, axis, layout, use, fresh, self._node.name))
        self._bound.setdefault(key, layout)
        if layout is not None:
            self.slots.setdefault(key, Bound(param, axis, layout, use, fresh, self._node.name))

    def _tie(self, key: tuple[str, int], known: Bound, bound: Bound) -> None:
        """An axis that is used in another way than before: a table may write what a layer reads by the same numbers."""
        uses = {known.use: known, bound.use: bound}
        if key in self.tied and bound.use in ("produce", "consume"):
            return
        writer = uses.get("produce")
        if "consume" in uses and writer is not None and lookup(self.graph.nodes[writer.node].op).looked_up is not None:
            self.slots[key], self.tied[key] = uses["consume"], writer
            return
        self.freeze(bound.layout, f"parameter '{bound.param}' is used in two ways along axis {bound.axis}")

    def _is_constant(self, param: str) -> bool:
        """Whether nothing learns what a node reads: a buffer, or a parameter that is read as a value while training holds it."""
        held = self.graph.params[param]
        return held.kind != "parameter" or (self._node.op == "parameter" and not held.trainable)


def _length(type_: Type | None, axis: int, item: int) -> int | None:
    """Entries of an axis of one of the values that a node gives; None where that is no number, or not said."""
    of_item = type_.items[item] if isinstance(type_, TupleType) and item < len(type_.items) else type_
    size = of_item.shape[axis] if isinstance(of_item, TensorType) and axis < len(of_item.shape) else None
    return size if isinstance(size, int) else None
