"""Channel spaces: which axes of which parameters must change together, and which must not change at all.

What the analysis finds: spaces, where their channels lie in parameters and values, and which integer attributes are widths in
disguise. How the channel rules couple axes is in `gngraph.analysis.coupling`, and what is known of channels meanwhile in
`gngraph.analysis.cuttable`.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from gngraph.analysis.contraction import Across, stretch_of
from gngraph.analysis.coupling import Bound, Coupled, coupled
from gngraph.analysis.lengths import at_other_sizes, mixes
from gngraph.analysis.snapshots import per_snapshot
from gngraph.errors import FrozenSpaceError, IRError
from gngraph.ir import Graph, OpaqueType, Ref, TensorType
from gngraph.ir.types import attr_at
from gngraph.ops import Layout, lookup
from gngraph.ops.spec import AttrPath, Fresh

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
        across: for what reads channels by what it writes itself, the products that sum over them (`node` is the first).
        start: where the stretch begins on the axis that those sum over.
    """

    param: str
    axis: int
    offset: int
    inner: int
    role: Role
    fresh: Fresh
    node: str
    across: tuple[Across, ...] = ()
    start: int = 0


class Measure(NamedTuple):
    """An integer attribute of a node that is a width in disguise: `constant` plus `inner` a channel of each space.

    Attributes:
        path: name of the attribute, then positions in tuples and fields of slices that lead to the integer.
        size: None for a number; where a size that the forward computes stands there, by how much that grows with each space.
    """

    path: AttrPath
    constant: int
    parts: tuple[tuple[str, int], ...]
    size: tuple[tuple[str, Fraction], ...] | None = None

    def value(self, widths: Mapping[str, int]) -> int:
        """The integer for other widths of the spaces."""
        return self.constant + sum(inner * widths[space] for space, inner in self.parts)

    def parts_from_size(self, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
        """Whether the size that stands there is another number than is wanted at widths `after`, those being `before`."""
        grown = sum(amount * (after[space] - before[space]) for space, amount in self.size or ())
        return self.value(before) + grown != self.value(after)


@dataclass(frozen=True)
class ChannelSpace:
    """Coupled channel axes that grow and shrink together.

    Attributes:
        name: path of the module that writes it first, or holds the weight that does; else name of the node.
        size: number of channels.
        slots: every parameter stretch that holds its channels.
        frozen: None, or the reason why no morphism may change it.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    frozen: str | None = None

    @property
    def tied(self) -> tuple[str, ...]:
        """Parameters that write its channels and read them too, as a table of words does that is the network's head as well.

        Among the slots such an axis stands in both roles; it is rebuilt once, as what reads.
        """
        written = {(slot.param, slot.axis) for slot in self.slots if slot.role is Role.PRODUCE}
        return tuple(
            s.param for s in self.slots if s.role is Role.CONSUME and not s.across and (s.param, s.axis) in written
        )

    @property
    def inner(self) -> int:
        """Entries that a layer writes for one of its channels: the size of a head where a channel is a whole one, mostly 1."""
        return min((slot.inner for slot in self.slots if slot.role is Role.PRODUCE), default=1)

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
        measures: node -> its attributes that hold widths.
        counted: node -> axes of its first input over which it takes statistics, or the first channels of which it takes for them.
        counters: space -> the nodes whose statistics count its channels.
    """

    spaces: Mapping[str, ChannelSpace]
    layouts: Mapping[tuple[str, int], tuple[tuple[str, int, int], ...]]
    axes: Mapping[tuple[str, int], tuple[tuple[str, Slot], ...]] = field(repr=False)
    measures: Mapping[str, tuple[Measure, ...]] = field(repr=False, default_factory=dict)
    counted: Mapping[str, tuple[int, ...]] = field(repr=False, default_factory=dict)
    counters: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> ChannelSpaces:
        """The channel spaces of `graph`, found once a graph.

        >>> import torch, gngraph
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spaces = ChannelSpaces.of(gngraph.from_torch(net, torch.zeros(1, 4)))
        >>> [(s.name, s.size, s.frozen) for s in spaces]
        [('0', 8, None), ('2', 2, "it is the network's output (node '2')")]
        """
        return _found(graph)

    @classmethod
    def run(cls, graph: Graph, analyses: AnalysisManager) -> ChannelSpaces:
        """The analysis as `AnalysisManager.get(ChannelSpaces, graph)` runs it: what the manager holds is frozen too."""
        found = cls.of(graph)
        held = analyses.scope.held(found) | dict(analyses.held)
        if not held:
            return found
        reasons = {name: space.frozen or held.get(name) for name, space in found.spaces.items()}
        return replace(found, spaces={name: replace(s, frozen=reasons[name]) for name, s in found.spaces.items()})

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


@per_snapshot
def _found(graph: Graph) -> ChannelSpaces:
    with _collector_paused():
        axes = coupled(graph)
        found = _Naming(graph, axes).spaces()
        for longer in at_other_sizes(graph):
            unlike = _numbered(found, graph, longer)
            if mixes(graph, longer, axes.values):
                unlike |= _unlike(found, _Naming(longer, coupled(longer)).spaces(), graph)
            free = {name: reason for name, reason in unlike.items() if found[name].frozen is None}
            held = {name: replace(found[name], frozen=reason) for name, reason in free.items()}
            found = replace(found, spaces={**found.spaces, **held})
        return found


def _numbered(spaces: ChannelSpaces, graph: Graph, longer: Graph) -> dict[str, str]:
    """Spaces a change of which puts a number in the place of a size that is another for `longer` inputs, with the reason."""
    found: dict[str, str] = {}
    for node, measures in spaces.measures.items():
        for measure in measures:
            size: Any = attr_at(graph.nodes[node].attrs, measure.path)
            grown = dict(measure.size or ())
            if isinstance(size, Ref) and graph.nodes[size.name].type != longer.nodes[size.name].type:
                names = {*grown, *dict(measure.parts)} if dict(measure.parts) != grown else set[str]()
                reason = f"a number is computed of it and of the size of the network's input (node '{node}')"
                found |= dict.fromkeys(names, reason)
    return found


def _unlike(spaces: ChannelSpaces, others: ChannelSpaces, graph: Graph) -> dict[str, str]:
    """Free spaces a change of which would be another at other sizes of the inputs, where `others` are found, with the reason."""
    found: dict[str, str] = {}
    for node, axes in spaces.counted.items():
        source = graph.nodes[node].inputs[0]
        for axis in axes:
            if spaces.layouts.get((source, axis)) != others.layouts.get((source, axis)):
                names = {name for name, _, _ in spaces.layouts.get((source, axis), ())}
                found |= dict.fromkeys(
                    names, f"it is counted along with positions, of which others may come (node '{node}')"
                )
    for space in spaces:
        other = others.spaces.get(space.name)
        if other is None or other.frozen or (other.size, other.slots) != (space.size, space.slots):
            reason = f"its channels depend on the size of the network's input (node '{space.slots[0].node}')"
            found.setdefault(space.name, reason)
    return found


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection inside.

    The many small objects made here form no cycles, yet their number would make Python walk every object of torch again and
    again, which took three quarters of the time for DenseNet-121.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Naming:
    """The axes of a graph, with names for their variables."""

    def __init__(self, graph: Graph, axes: Coupled) -> None:
        self.graph, self.coupled, self.sets = graph, axes, axes.sets
        self.slots: dict[int, list[Slot]] = {}
        self.axes: dict[tuple[str, int], list[tuple[int, Slot]]] = {}
        for key, bound in axes.slots.items():
            self.axes[key], offset = [], 0
            writer = axes.tied.get(key)
            for var, size, inner in self.sets.resolve(bound.layout):
                slot = self._slot(bound, offset, inner)
                if writer is not None:
                    written = slot._replace(role=Role.PRODUCE, fresh=writer.fresh, node=writer.node)
                    self.slots.setdefault(var, []).append(written)
                self.slots.setdefault(var, []).append(slot)
                self.axes[key].append((var, slot))
                offset += size * inner
        self.names = self._names()
        self._known: dict[int, tuple[tuple[str, int, int], ...]] = {}

    def _slot(self, bound: Bound, offset: int, inner: int) -> Slot:
        stretches = self.coupled.across.get(bound.param, {})
        stretch = stretch_of(stretches, bound.axis, offset)
        if stretch is None:
            return Slot(bound.param, bound.axis, offset, inner, Role(bound.use), bound.fresh, bound.node)
        across = stretches[stretch]
        value, axis = across[0].side
        length = int(
            self.graph.nodes[value].shape[axis]
        )  # of a head, where the same entries of several are summed over
        start = (offset - stretch.start) % length
        return Slot(bound.param, bound.axis, offset, inner, Role.CONSUME, "zeros", across[0].node, across, start)

    def spaces(self) -> ChannelSpaces:
        """The channel spaces."""
        layouts = {
            (node, axis): self._named(self.sets.resolve(layout))
            for node, items in self.coupled.values.items()
            if isinstance(self.graph.nodes[node].type, TensorType)
            for axis, layout in items[0].items()
            # what is filled with a number, and meets no parameter, is no space
            if all(segment.var in self.slots for segment in self.sets.resolve(layout))
        }
        axes = {key: tuple((self.names[var], slot) for var, slot in own) for key, own in self.axes.items()}
        counters = self._counters(layouts)
        spaces = {name: self._space(var, name, counters.get(name, ())) for var, name in self.names.items()}
        return ChannelSpaces(spaces, layouts, axes, self._measures(), self.coupled.counted, counters)

    def _counters(
        self, layouts: Mapping[tuple[str, int], tuple[tuple[str, int, int], ...]]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {}
        for node, axes in self.coupled.counted.items():
            for axis in axes:
                for name, _, _ in layouts.get((self.graph.nodes[node].inputs[0], axis), ()):
                    found.setdefault(name, {})[node] = None
        return {name: tuple(nodes) for name, nodes in found.items()}

    def _space(self, var: int, name: str, counters: tuple[str, ...]) -> ChannelSpace:
        reason = self.sets.reasons.get(var)
        if reason is None and not any(slot.role is Role.CONSUME for slot in self.slots[var]):
            counted = ", it is only counted" if counters else ""
            reason = f"no layer reads it{counted} (node '{counters[0] if counters else self._last(var)}')"
        return ChannelSpace(name, self.sets.sizes[var], tuple(self.slots[var]), reason)

    def _last(self, var: int) -> str:
        """The last node whose value holds a space, by the path of its module where it has one."""
        for name, items in reversed(list(self.coupled.values.items())):
            layouts = (layout for item in items for layout in item.values())
            if any(segment.var == var for layout in layouts for segment in self.sets.resolve(layout)):
                return self.graph.nodes[name].module or name
        return self.slots[var][0].node

    def _measures(self) -> dict[str, tuple[Measure, ...]]:
        found: dict[str, tuple[Measure, ...]] = {}
        for (node, path), layout in self.coupled.measured.items():
            amounts = {var: int(amount) for var, amount in self._amounts(layout).items()}
            value: Any = attr_at(self.graph.nodes[node].attrs, path)
            size = None
            if isinstance(value, Ref):
                grows = self._amounts(self.coupled.values[value.name][0].get(0))
                size = tuple((self.names[var], amount) for var, amount in grows.items())
                type_ = self.graph.nodes[value.name].type
                value = type_.value if isinstance(type_, OpaqueType) else None
            constant = value - sum(amount * self.sets.sizes[var] for var, amount in amounts.items())
            measure = Measure(path, constant, tuple((self.names[var], amount) for var, amount in amounts.items()), size)
            found[node] = (*found.get(node, ()), measure)
        return found

    def _amounts(self, layout: Layout | None) -> dict[int, Fraction]:
        return {var: amount for var, amount in self.sets.amounts(layout).items() if var in self.slots}

    def _named(self, layout: Layout) -> tuple[tuple[str, int, int], ...]:
        """A layout by names; long concatenations are passed on by many nodes, and named once."""
        known = self._known.get(id(layout))
        if known is None:
            known = self._known[id(layout)] = tuple((self.names[s.var], s.size, s.inner) for s in layout)
        return known

    def _names(self) -> dict[int, str]:
        """A name for every space: the module that writes it first, or holds the weight, numbered where it writes several."""
        names: dict[int, str] = {}
        counts = Counter[str]()
        taken: set[str] = set()
        written = {var: next((s for s in own if s.role is Role.PRODUCE), None) for var, own in self.slots.items()}
        # what no layer writes is named behind what they write
        for var in sorted(written, key=lambda var: written[var] is None):
            writer = written[var] or self.slots[var][0]
            node = self.graph.nodes[writer.node]
            holder = writer.param.rpartition(".")[0] if lookup(node.op).is_layer else ""
            stem = name = node.module or holder or node.name
            while name in taken:
                counts[stem] += 1
                name = f"{stem}#{counts[stem] + 1}"
            taken.add(name)
            names[var] = name
        return names
