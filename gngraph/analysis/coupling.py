"""How channel spaces are found: a union-find over axes, driven by the channel rule of each op.

A rule says how the axes of an op's inputs, parameters and value are coupled; what it does not understand is frozen with a
reason that names the node. A variable of the union-find stands for the channels of a stretch of an axis. It may be cut in
two, where a stretch ends inside it, or coarsened, where several neighbouring channels can only change together (the
entries of an attention head, say). O(#nodes + #segments), 10 ms for DenseNet-121.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Measure, Role, Slot
from gngraph.ir import Graph, Node, TensorType, TupleType
from gngraph.ir.types import integer_at
from gngraph.ops import Layout, Segment, lookup, operands_of
from gngraph.ops.spec import Fresh, Path


def couple(graph: Graph) -> ChannelSpaces:
    """The channel spaces of `graph`."""
    with _collector_paused():
        coupling = _Coupling(graph)
        coupling.build()
        return coupling.result()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection inside, which took three quarters of the time for DenseNet-121: what is made here forms no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class _RawSlot:
    param: str
    axis: int
    layout: Layout
    role: Role
    fresh: Fresh
    node: str


class _Coupling:
    """Implements `gngraph.ops.ChannelRules`, one node at a time."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent: list[int] = []
        self.sizes: list[int] = []
        self.parts: dict[int, Layout] = {}
        self.reasons: dict[int, str] = {}
        self.values: dict[str, list[dict[int, Layout]]] = {}
        self.bound: dict[tuple[str, int], Layout | None] = {}
        self.raw: dict[tuple[str, int], _RawSlot] = {}
        self.declared: set[tuple[str, str, int]] = set()  # node, parameter, axis
        self.measured: dict[tuple[str, Path], Layout] = {}
        self.node: Node = next(iter(graph.nodes.values()))
        # id of a layout -> (that layout, what it resolves to): long concatenations are passed on by many nodes
        self.resolved: dict[int, tuple[Layout, Layout]] = {}
        self.named: dict[int, tuple[tuple[str, int, int], ...]] = {}

    def build(self) -> None:
        for node in self.graph.nodes.values():
            self.node = node
            count = len(node.type.items) if isinstance(node.type, TupleType) else 1
            self.values[node.name] = [{} for _ in range(max(count, 1))]
            operands = operands_of(node, tuple(self.graph.nodes[i].type for i in node.inputs), self.graph.params)
            lookup(node.op).channels(self, operands)
            self._hold_undeclared()
        for name in self.graph.outputs:
            self.node = self.graph.nodes[name]
            for item in self.values[name]:
                for layout in item.values():
                    self.freeze(layout, "it is the network's output")
        self._hold_constants()

    def _hold_constants(self) -> None:
        """Channels that come from constants stay: one more would be a column of numbers that nobody gave and nothing learns.

        A buffer that is a layer's weight writes, whatever else does; a parameter was learned, also where training holds it
        for now. A constant that is read as a value (positions, a mask, a scale) writes only where nothing else does, else it
        accompanies the channels of what is learned.
        """
        writers: dict[int, list[_RawSlot]] = {}
        for raw in self.raw.values():
            if raw.role is Role.PRODUCE:
                for segment in self._resolve(raw.layout):
                    writers.setdefault(segment.var, []).append(raw)
        for var, slots in writers.items():
            values = [raw for raw in slots if self.graph.nodes[raw.node].op == "parameter"]
            layers = [raw for raw in slots if raw not in values and self.graph.params[raw.param].kind != "parameter"]
            constants = [raw for raw in values if not self.graph.params[raw.param].trainable]
            for raw in layers or (constants if len(constants) == len(slots) else []):
                self.node = self.graph.nodes[raw.node]
                what = self.graph.params[raw.param].kind
                self.freeze(
                    (Segment(var, self.sizes[var]),), f"it is written by the {what} '{raw.param}', which is not learned"
                )

    def _hold_undeclared(self) -> None:
        """Parameter axes that the node's rule says nothing of must stay as they are, also for other readers of a tied weight."""
        for param in self.node.params.values():
            for axis in range(self.graph.params[param].data.dim()):
                if (self.node.name, param, axis) not in self.declared:
                    self.freeze(self.bound.get((param, axis)), f"it is an axis of '{param}' that must keep its size")
                    self.bound.setdefault((param, axis), None)

    # --- gngraph.ops.ChannelRules

    def layout(self, operand: int, axis: int) -> Layout | None:
        found = self.values[self.node.inputs[operand]][0].get(axis)
        return None if found is None else self._resolve(found)

    def item_layouts(self, operand: int, item: int) -> Mapping[int, Layout]:
        items = self.values[self.node.inputs[operand]]
        return {axis: self._resolve(layout) for axis, layout in items[item].items()}

    def produce(self, role: str, axis: int) -> Layout:
        param = self.node.params[role]
        raw = self.raw.get((param, axis))  # what is held at its size keeps the layout that it was first given
        known = self.bound.get((param, axis)) or (raw.layout if raw is not None else None)
        size = self.graph.params[param].data.shape[axis]
        layout = known if known is not None else (Segment(self._new(size), size),)
        self._bind(param, axis, layout, Role.PRODUCE, "random")
        return self._resolve(layout)

    def follow(self, role: str, axis: int, layout: Layout | None, fresh: Fresh) -> None:
        self._bind(self.node.params[role], axis, layout, Role.FOLLOW, fresh)

    def consume(self, role: str, axis: int, layout: Layout | None) -> None:
        self._bind(self.node.params[role], axis, layout, Role.CONSUME, "zeros")

    def unify(self, layouts: list[Layout | None]) -> Layout | None:
        known = [self._resolve(layout) for layout in layouts if layout is not None]
        if len(known) < len(layouts):
            for layout in known:
                self.freeze(layout, "it is combined with a value of fixed size")
        for other in known[1:]:
            self._unify_pair(self._resolve(known[0]), self._resolve(other))
        return self._resolve(known[0]) if known else None

    def divide(self, layout: Layout | None, lengths: Sequence[int], reason: str) -> list[Layout | None]:
        if layout is None:
            return [None] * len(lengths)
        whole, rest = layout, self._resolve(layout)
        parts: list[Layout | None] = []
        for length in lengths:
            taken = self._take(rest, length)
            if taken is None:
                self.freeze(whole, reason)
                return [None] * len(lengths)
            parts.append(taken)
            rest = self._resolve(whole)[self._count(whole, sum(lengths[: len(parts)])) :]
        return [None if part is None else self._resolve(part) for part in parts]

    def group(self, layout: Layout | None, entries: int, reason: str) -> Layout | None:
        if layout is None or entries == 1:
            return layout
        for i in range(len(self._resolve(layout))):
            var, size, inner = self._resolve(layout)[i]
            times, rest = divmod(entries, inner)
            if inner % entries == 0:
                continue
            if rest or size % times:
                self.freeze(layout, reason)
                return None
            self._coarsen(var, times)
        return tuple(Segment(s.var, s.size, s.inner // entries) for s in self._resolve(layout))

    def same_amount(self, a: Layout | None, b: Layout | None) -> bool:
        return self._amounts(a) == self._amounts(b)

    def measure(self, path: Path, layout: Layout | None) -> None:
        if layout is not None:
            self.measured[self.node.name, path] = layout

    def freeze(self, layout: Layout | None, reason: str) -> None:
        for segment in self._resolve(layout or ()):
            where = self.node.module or self.node.name
            self.reasons.setdefault(segment.var, f"{reason} (node '{where}')")

    def set(self, axis: int, layout: Layout | None, item: int = 0) -> None:
        if layout is not None:
            self.values[self.node.name][item][axis] = layout

    # --- union-find over variables, which may be cut in two

    def _new(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        return len(self.parent) - 1

    def _find(self, var: int) -> int:
        while self.parent[var] != var:
            self.parent[var] = self.parent[self.parent[var]]
            var = self.parent[var]
        return var

    def _resolve(self, layout: Layout) -> Layout:
        """The layout in terms of roots that are not cut; the same object while it need not change."""
        known = self.resolved.get(id(layout))
        if known is not None:
            return known[1]
        result: list[Segment] = []
        for segment in layout:
            root = self._find(segment.var)
            if root in self.parts:
                parts = self._resolve(self.parts[root])
                result += [Segment(p.var, p.size, p.inner * segment.inner) for p in parts]
            else:
                result.append(segment if root == segment.var else Segment(root, segment.size, segment.inner))
        new = tuple(result)
        new = layout if new == layout else new
        self.resolved[id(layout)] = (layout, new)
        self.resolved[id(new)] = (new, new)
        return new

    def _cut(self, var: int, size: int) -> None:
        """Cut a variable into its first `size` channels and the rest."""
        self.resolved.clear()
        first, second = self._new(size), self._new(self.sizes[var] - size)
        self.parts[var] = (Segment(first, size), Segment(second, self.sizes[var] - size))
        if var in self.reasons:
            self.reasons[first] = self.reasons[second] = self.reasons[var]

    def _coarsen(self, var: int, times: int) -> int:
        """Make `times` neighbouring channels of a variable one channel; the new variable."""
        self.resolved.clear()
        coarse = self._new(self.sizes[var] // times)
        self.parts[var] = (Segment(coarse, self.sizes[coarse], times),)
        if var in self.reasons:
            self.reasons[coarse] = self.reasons[var]
        return coarse

    def _take(self, layout: Layout, length: int) -> Layout | None:
        """The first `length` entries of a resolved layout, cutting the last segment if it must be; None when it cannot."""
        taken: list[Segment] = []
        for segment in layout:
            if length == 0:
                break
            if segment.length <= length:
                taken.append(segment)
                length -= segment.length
                continue
            channels, rest = divmod(length, segment.inner)
            if rest:
                return None
            self._cut(segment.var, channels)
            return self._take(self._resolve((*taken, segment)), sum(s.length for s in taken) + length)
        return tuple(taken) if length == 0 else None

    def _count(self, layout: Layout, length: int) -> int:
        """How many segments of a layout, as it resolves now, make up its first `length` entries."""
        for count, segment in enumerate(self._resolve(layout)):
            if length == 0:
                return count
            length -= segment.length
        return len(self._resolve(layout))

    def _amounts(self, layout: Layout | None) -> dict[int, Fraction]:
        """Entries of an axis (or size) that each channel of each variable accounts for."""
        amounts: dict[int, Fraction] = {}
        for segment in self._resolve(layout or ()):
            amounts[segment.var] = amounts.get(segment.var, Fraction(0)) + segment.inner
        return amounts

    def _unify_pair(self, a: Layout, b: Layout) -> None:
        """Make two layouts of equal length agree channel by channel, cutting segments where they must be."""
        while a and b:
            x, y = a[0], b[0]
            if x.inner != y.inner and self._match_inner(x, y):
                a, b = self._resolve(a), self._resolve(b)
                continue
            if x.inner != y.inner:
                for layout in (a, b):
                    self.freeze(layout, "axes are combined whose channels own different numbers of entries")
                return
            if x.size > y.size and x.var != y.var:
                self._cut(x.var, y.size)
            elif y.size > x.size and x.var != y.var:
                self._cut(y.var, x.size)
            elif x.size != y.size:
                self.freeze((x,), "it is combined with a part of itself")
                return
            else:
                self._union(x.var, y.var)
                a, b = a[1:], b[1:]
            a, b = self._resolve(a), self._resolve(b)
        if a or b:
            self.freeze(a or b, "axes of different length are combined")

    def _match_inner(self, x: Segment, y: Segment) -> bool:
        """Make the finer of two segments as coarse as the other; False when its channels cannot be bundled so."""
        fine, coarse = (x, y) if x.inner < y.inner else (y, x)
        times, rest = divmod(coarse.inner, fine.inner)
        if rest or fine.size % times or fine.var == coarse.var:
            return False
        self._coarsen(fine.var, times)
        return True

    def _union(self, a: int, b: int) -> None:
        if a == b:
            return
        self.resolved.clear()
        keep, gone = min(a, b), max(a, b)
        self.parent[gone] = keep
        if gone in self.reasons:
            self.reasons.setdefault(keep, self.reasons.pop(gone))

    def _bind(self, param: str, axis: int, layout: Layout | None, role: Role, fresh: Fresh) -> None:
        key = (param, axis)
        self.declared.add((self.node.name, param, axis))
        if key in self.bound:
            self.unify([self.bound[key], layout])
            known = self.raw.get(key)
            if known is not None and known.role is not role:
                self.freeze(layout, f"parameter '{param}' is used in two ways along axis {axis}")
        self.bound.setdefault(key, layout)
        if layout is not None:
            self.raw.setdefault(key, _RawSlot(param, axis, layout, role, fresh, self.node.name))

    # --- the result

    def result(self) -> ChannelSpaces:
        slots: dict[int, list[Slot]] = {}
        axes: dict[tuple[str, int], list[Slot]] = {}
        read: set[int] = set()
        for key, raw in self.raw.items():
            offset = 0
            axes[key] = own = []
            layout = self._resolve(raw.layout)
            for var, size, inner in layout:
                slot = Slot(raw.param, raw.axis, offset, inner, raw.role, raw.fresh, raw.node)
                slots.setdefault(var, []).append(slot)
                own.append(slot)
                offset += size * inner
            if raw.role is Role.CONSUME:
                read.update(segment.var for segment in layout)
        names = self._names(slots)
        spaces = {}
        for var, name in names.items():
            reason = self.reasons.get(var)
            if reason is None and var not in read:
                reason = "no layer reads it"
            spaces[name] = ChannelSpace(name, self.sizes[var], tuple(slots[var]), reason)
        layouts = {
            (node, axis): self._named(self._resolve(layout), names)
            for node, items in self.values.items()
            if isinstance(self.graph.nodes[node].type, TensorType)
            for axis, layout in items[0].items()
        }
        named = {
            key: tuple(zip([names[s.var] for s in self._resolve(self.raw[key].layout)], own, strict=True))
            for key, own in axes.items()
        }
        return ChannelSpaces(spaces, layouts, named, self._measures(names))

    def _measures(self, names: Mapping[int, str]) -> dict[str, tuple[Measure, ...]]:
        found: dict[str, tuple[Measure, ...]] = {}
        for (node, path), layout in self.measured.items():
            amounts = {var: int(amount) for var, amount in self._amounts(layout).items()}
            value = integer_at(self.graph.nodes[node].attrs, path)
            constant = value - sum(amount * self.sizes[var] for var, amount in amounts.items())
            measure = Measure(path, constant, tuple((names[var], amount) for var, amount in amounts.items()))
            found[node] = (*found.get(node, ()), measure)
        return found

    def _named(self, layout: Layout, names: Mapping[int, str]) -> tuple[tuple[str, int, int], ...]:
        known = self.named.get(id(layout))
        if known is None:
            known = self.named[id(layout)] = tuple((names[s.var], s.size, s.inner) for s in layout)
        return known

    def _names(self, slots: dict[int, list[Slot]]) -> dict[int, str]:
        """A name for every space: the module that writes it first, numbered where it writes several."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for var, entries in slots.items():
            writer = next((s for s in entries if s.role is Role.PRODUCE), entries[0])
            node = self.graph.nodes[writer.node]
            stem = node.module or node.name
            name, count = stem, 1
            while name in taken:
                count += 1
                name = f"{stem}#{count}"
            taken.add(name)
            names[var] = name
        return names
