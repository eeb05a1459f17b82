"""Channel spaces: which axes of which parameters must change together, and which must not change at all.

A union-find over axes. Each op's channel rule says how the axes of its inputs, parameters and value are coupled; what a
rule does not understand is frozen with a reason that names the node. O(#nodes + #segments), 10 ms for DenseNet-121.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from gngraph.errors import FrozenSpaceError, IRError
from gngraph.ir import Graph, Node, TensorType, TupleType
from gngraph.ops import Layout, Segment, lookup, operands_of
from gngraph.ops.spec import Fresh

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


class Role(Enum):
    """What a parameter axis does with the channels of a space."""

    PRODUCE = "produce"
    FOLLOW = "follow"
    CONSUME = "consume"


class Slot(NamedTuple):
    """A stretch of a parameter axis that belongs to a channel space.

    Channel c owns the entries offset + c * inner ... offset + (c + 1) * inner - 1.

    Attributes:
        param: parameter name.
        axis: axis of the parameter.
        offset: first entry of the stretch.
        inner: entries a channel.
        role: whether the parameter writes, accompanies or reads the channels.
        fresh: how the entries of a new channel start (readers start at zero).
        node: the first node that uses the parameter so.
    """

    param: str
    axis: int
    offset: int
    inner: int
    role: Role
    fresh: Fresh
    node: str


@dataclass(frozen=True)
class ChannelSpace:
    """Coupled channel axes that grow and shrink together.

    Attributes:
        name: path of the module (or name of the node) that writes it first.
        size: number of channels.
        slots: every parameter stretch that holds its channels.
        frozen: None, or the reason why no morphism may change it.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    frozen: str | None = None

    def nodes(self, role: Role) -> tuple[str, ...]:
        """Nodes whose parameters have this role, in graph order."""
        return tuple(dict.fromkeys(slot.node for slot in self.slots if slot.role is role))


@dataclass(frozen=True)
class ChannelSpaces:
    """The channel spaces of one graph.

    Attributes:
        spaces: name -> space, in the order in which the graph writes them.
        layouts: (node, axis) -> segments as (space name, size, inner), for every laid-out axis of a tensor value.
        axes: (parameter, axis) -> slots that cover it, in order of offset, each with its space's name.
    """

    spaces: Mapping[str, ChannelSpace]
    layouts: Mapping[tuple[str, int], tuple[tuple[str, int, int], ...]]
    axes: Mapping[tuple[str, int], tuple[tuple[str, Slot], ...]] = field(repr=False)

    @classmethod
    def of(cls, graph: Graph) -> ChannelSpaces:
        """The channel spaces of `graph`.

        >>> import torch, gngraph
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spaces = ChannelSpaces.of(gngraph.from_torch(net, torch.zeros(1, 4)))
        >>> [(s.name, s.size, s.frozen) for s in spaces]
        [('0', 8, None), ('2', 2, "it is the network's output (node '2')")]
        """
        with _collector_paused():
            builder = _Builder(graph)
            builder.build()
            return builder.result()

    @classmethod
    def run(cls, graph: Graph, analyses: AnalysisManager) -> ChannelSpaces:
        """The analysis as `AnalysisManager.get(ChannelSpaces, graph)` runs it."""
        return cls.of(graph)

    def __iter__(self) -> Iterator[ChannelSpace]:
        return iter(self.spaces.values())

    def __getitem__(self, name: str) -> ChannelSpace:
        """The space called `name`; IRError if there is none."""
        if name not in self.spaces:
            raise IRError(f"there is no channel space '{name}'; the spaces are {', '.join(self.spaces)}")
        return self.spaces[name]

    @property
    def free(self) -> tuple[ChannelSpace, ...]:
        """The spaces that morphisms may change."""
        return tuple(space for space in self if space.frozen is None)

    def require_free(self, name: str) -> ChannelSpace:
        """The space `name`; FrozenSpaceError with the reason when it is frozen."""
        space = self[name]
        if space.frozen is not None:
            raise FrozenSpaceError(f"channel space '{name}' is frozen: {space.frozen}")
        return space


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection inside: the many small objects made here form no cycles, yet their number would make Python
    walk every object of torch again and again, which took three quarters of the time for DenseNet-121."""
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


class _Builder:
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
        for name in self.graph.outputs:
            self.node = self.graph.nodes[name]
            for item in self.values[name]:
                for layout in item.values():
                    self.freeze(layout, "it is the network's output")

    # --- gngraph.ops.ChannelRules

    def layout(self, operand: int, axis: int) -> Layout | None:
        found = self.values[self.node.inputs[operand]][0].get(axis)
        return None if found is None else self._resolve(found)

    def item_layouts(self, operand: int, item: int) -> Mapping[int, Layout]:
        items = self.values[self.node.inputs[operand]]
        return {axis: self._resolve(layout) for axis, layout in items[item].items()}

    def produce(self, role: str, axis: int) -> Layout:
        param = self.node.params[role]
        known = self.bound.get((param, axis))
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

    def _unify_pair(self, a: Layout, b: Layout) -> None:
        """Make two layouts of equal length agree channel by channel, cutting segments where they must be."""
        while a and b:
            x, y = a[0], b[0]
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
        return ChannelSpaces(spaces, layouts, named)

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
