"""Changes in place become new values: whatever reads the changed value later, under any of its names, reads the new one.

Which values lie in the same memory is seen, not guessed, in a run on the meta device: a view, a dropout that is off, or a module
that gives back what it got are all other names of one value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from gngraph.errors import UnsupportedModelError
from gngraph.importing.concrete import MetaRun
from gngraph.importing.copies import copy_of
from gngraph.importing.fx_calls import bind, is_inplace
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.shapes import Shapes, ShapesSeen, tensors_in
from gngraph.importing.trace import Traced
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.lowering.interpreter import Interpreter
from gngraph.ops import spec_of_function
from gngraph.ops.assign import assigned

_SHAPES = ("size", "dim", "ndimension", "shape", "ndim", "dtype", "device")
"""What may be asked of a value that has changed."""
_PLAIN: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
    operator.setitem: assigned,
}
_DRAWS = ("bernoulli", "uniform", "normal", "exponential", "random", "cauchy", "log_normal", "geometric")
"""Methods that draw random numbers: those in place have other arguments than those that are not."""
_CUTS = ("detach", "detach_", torch.detach)
"""Calls that give what passes no gradient."""
_LISTED = 1 << 22
"""Most entries of a storage in which overlapping views are told from others, entry by entry."""

Place = tuple[Any, Any, tuple[int, ...], tuple[int, ...]]
"""Which entries of which storage a tensor is: the storage, the first entry, sizes and strides."""


def without_changes_in_place(
    traced: Traced,
    module: nn.Module,
    twin: Callable[[], nn.Module],
    inputs: ExampleInputs,
    known: ShapesSeen,
) -> Mapping[str, fx.Node]:
    """Rewrite a trace so that no node depends on the change in place of a value that another gives.

    Args:
        traced: the trace, whose graph is changed.
        module: what was traced, as it was before.
        twin: gives a copy of it without values.
        inputs: example inputs.
        known: see `Shapes`.

    Returns:
        The buffers and parameters that the forward changes, which stays as it is, with the nodes that do.

    Raises:
        UnsupportedModelError: a part of a value is changed in place, and the whole is read afterwards.
    """
    updates = dict(traced.assigned)
    if not any(_may_change(traced, node) for node in traced.graph.nodes):
        return updates
    seen = _seen(traced, module, twin(), inputs, known)
    now: dict[fx.Node, fx.Node] = {}
    stale: dict[fx.Node, fx.Node] = {}
    quiet: dict[fx.Node, fx.Node] = {}
    before: set[fx.Node] = set()
    put_together: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node in put_together:
            before.add(node)
            continue
        for source in node.all_input_nodes:
            if source in quiet and not _asks_for_shape(node) and not _is_cut(node):
                raise UnsupportedModelError(
                    f"node '{quiet[source].name}' changes '{source.name}' in place where no gradient passes, and '{node.name}' "
                    f"reads '{source.name}' afterwards, whose gradient is that of before; make the change as a new value"
                )
            if source in stale and not (_asks_for_shape(node) or _puts_back(node, stale[source], seen)):
                raise UnsupportedModelError(
                    f"node '{stale[source].name}' changes a part of '{source.name}' in place, or a view of it, and '{node.name}' "
                    f"reads '{source.name}' afterwards; make the change without '_', '+=' or inplace=True, as a new value"
                )
        changed = seen.changes.get(node)
        if changed is not None:
            _check_apart(node, changed, seen)
        node.args = fx.map_arg(node.args, lambda source: now.get(source, source))
        node.kwargs = fx.map_arg(node.kwargs, lambda source: now.get(source, source))
        if changed is None and node.op == "call_function" and node.target in _PLAIN:
            _make_new(node)  # of numbers
        if changed is not None:
            near = [other for other in seen.near(changed) if other in before]
            alike = {other for other in near if seen.lie_alike(other, changed)}
            held = next((other for other in near if other.op == "get_attr" and seen.overlap(other, changed)), None)
            if held is not None:
                updates[str(held.target)] = node
            else:
                if _is_cut(node) or seen.is_cut(changed):
                    quiet.update({other: node for other in near if seen.passes(other) and seen.overlap(other, changed)})
                now.update(dict.fromkeys(alike, node))
                cut = {other for other in alike if seen.is_cut(other)}
                if cut and not _is_cut(node) and not seen.is_cut(changed):
                    with traced.graph.inserting_after(node):
                        detached = traced.graph.call_method("detach", (node,))
                    seen.places[detached] = seen.places[node]
                    now.update(dict.fromkeys(cut, detached))
                whole = _whole_of(changed, node, near, seen)
                _make_new(node)
                if whole is not None:
                    pieces = _with_part(traced.graph, node, now.get(whole, whole), changed)
                    put_together.update(pieces)
                    for piece in pieces:
                        seen.places[piece] = []
                    seen.lies_as(pieces[-1], whole)
                    same = {other for other in near if seen.lie_alike(other, whole)}
                    now.update(dict.fromkeys(same, pieces[-1]))
                    alike |= same
                for other in near:
                    if other in alike:
                        stale.pop(other, None)
                    elif seen.overlap(other, changed):
                        stale.setdefault(other, node)
                if node.target is assigned:  # which gives nothing in Python
                    seen.lies_as(node, changed)
        before.add(node)
    return updates


def _check_apart(node: fx.Node, changed: fx.Node, seen: _Seen) -> None:
    """Refuse a change that reads some of the entries that it writes, but not each where it is written.

    What torch then computes depends on the order in which it goes over entries, which is its own.
    """
    written = _written_by(node, changed, seen)
    for source in node.all_input_nodes:
        places = seen.places[source]
        if source is not changed and places != written and any(_share(a, b) for a in places for b in written):
            raise UnsupportedModelError(
                f"node '{node.name}' changes '{changed.name}' in place and reads '{source.name}', sharing entries with it, so "
                f"that the order of torch's loops decides; read a copy of it (clone), or make the change as a new value"
            )


def _written_by(node: fx.Node, changed: fx.Node, seen: _Seen) -> list[Place]:
    """Which entries a change of a value writes: where it assigns by numbers and slices alone, a part of them."""
    places = seen.places[changed]
    if node.target is not operator.setitem:
        return places
    index: Any = fx.map_arg(node.args[1], lambda source: seen.numbers.get(source))
    entries = index if isinstance(index, tuple) else (index,)
    if not all(entry is ... or isinstance(entry, (int, slice)) for entry in entries):
        return places
    ((storage, offset, sizes, strides),) = places
    part = torch.empty(0, device="meta").as_strided(sizes, strides, offset)[index]
    return [(storage, int(part.storage_offset()), tuple(part.size()), tuple(part.stride()))]


def _whole_of(part: fx.Node, node: fx.Node, near: Iterable[fx.Node], seen: _Seen) -> fx.Node | None:
    """What a changed part is a slice of, along one axis, if gradients pass it as they did; else None."""
    whole = part.args[0] if part.target is operator.getitem else None
    if not isinstance(whole, fx.Node) or whole not in near or not seen.overlap(whole, part):
        return None
    if _is_cut(node) or seen.is_cut(part) or seen.lie_alike(whole, part) or len(seen.places[whole]) != 1:
        return None
    entries = part.args[1] if isinstance(part.args[1], tuple) else (part.args[1],)
    cut = [entry for entry in entries if entry != slice(None)]
    plain = all(isinstance(entry, slice) and entry.step is None for entry in entries)
    return whole if plain and len(cut) == 1 else None


def _with_part(graph: fx.Graph, part: fx.Node, whole: fx.Node, before: fx.Node) -> list[fx.Node]:
    """Nodes behind `part`, the last of which is `whole` with it in the place of the slice `before`."""
    entries = before.args[1] if isinstance(before.args[1], tuple) else (before.args[1],)
    axis = next(i for i, entry in enumerate(entries) if entry != slice(None))
    bounds: Any = entries[axis]
    added = list[fx.Node]()
    with graph.inserting_after(part):
        joined = graph.call_function(torch.cat, ((), axis))
    with graph.inserting_before(joined):
        for start, stop in ((None, bounds.start), (bounds.stop, None)):
            index = (*entries[:axis], slice(start, stop))
            added += [graph.call_function(operator.getitem, (whole, index))] if (start, stop) != (None, None) else []
    front = added[:1] if bounds.start is not None else []
    joined.args = ([*front, part, *added[len(front) :]], axis)
    return [*added, joined]


@dataclass
class _Seen:
    """Where the value of every node lies, and which of its operands each node changes."""

    places: dict[fx.Node, list[Place]] = field(default_factory=dict)
    changes: dict[fx.Node, fx.Node] = field(default_factory=dict)
    at: dict[int, list[fx.Node]] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    fractional: set[fx.Node] = field(default_factory=set)
    numbers: dict[fx.Node, int] = field(default_factory=dict)

    def note(self, node: fx.Node, value: Any) -> None:
        """A node's value."""
        if isinstance(value, int):
            self.numbers[node] = value
        tensors = list(tensors_in(value))
        if any(x.is_floating_point() or x.is_complex() for x in tensors):
            self.fractional.add(node)
        self.held += [x.untyped_storage() for x in tensors]  # kept, so that no other comes to lie in its place
        self.places[node] = [
            (x.untyped_storage()._cdata, x.storage_offset(), tuple(x.size()), tuple(x.stride())) for x in tensors
        ]
        for storage, *_ in self.places[node]:
            self.at.setdefault(storage, []).append(node)

    def lies_as(self, node: fx.Node, other: fx.Node) -> None:
        """Say where the value of a node lies: where that of `other` does."""
        self.places[node] = self.places[other]
        for storage, *_ in self.places[other]:
            self.at[storage].append(node)

    def near(self, node: fx.Node) -> Iterable[fx.Node]:
        """All values that share a storage with a node's."""
        return dict.fromkeys(other for storage, *_ in self.places[node] for other in self.at[storage])

    def passes(self, node: fx.Node) -> bool:
        """Whether a gradient may pass a value."""
        return node in self.fractional and node.op != "get_attr" and not self.is_cut(node)

    def is_cut(self, node: fx.Node) -> bool:
        """Whether no gradient passes a value, which is computed without or is another name of one that is detached."""
        views = (source for source in node.all_input_nodes if self.overlap(source, node))
        return _is_cut(node) or any(self.is_cut(source) for source in views)

    def lie_alike(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether two values are one, under two names."""
        return self.places[a] == self.places[b]

    def overlap(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether a change of one value shows in the other."""
        return any(_share(x, y) for x in self.places[a] for y in self.places[b])


def _share(a: Place, b: Place) -> bool:
    """Whether an entry of one storage is in both."""
    if a[0] != b[0]:
        return False
    last = max(x[1] + sum((size - 1) * stride for size, stride in zip(x[2], x[3], strict=True)) for x in (a, b))
    if last > _LISTED:
        return True
    taken = torch.zeros(2, last + 1, dtype=torch.bool)
    for row, (_, offset, sizes, strides) in zip(taken, (a, b), strict=True):
        row.as_strided(sizes, strides, row.storage_offset() + offset).fill_(True)
    return bool((taken[0] & taken[1]).any())


def _may_change(traced: Traced, node: fx.Node) -> bool:
    """Whether a call looks like one that works in place."""
    if node.op == "call_module":
        return bool(getattr(traced.root.get_submodule(str(node.target)), "inplace", False))
    if not node.op.startswith("call"):
        return False
    return node.target in _PLAIN or "out" in node.kwargs or is_inplace(node.target, node)


def _is_cut(node: fx.Node) -> bool:
    """Whether a call gives what passes no gradient."""
    data = node.target is getattr and node.args[1] == "data"
    return bool(node.meta.get(WITHOUT_GRADIENT) or data or node.target in _CUTS)


def _puts_back(node: fx.Node, changed: fx.Node, seen: _Seen) -> bool:
    """Whether a part that was changed is assigned to the same part of the whole, as `x[i] += 1` does."""
    if node.target is not operator.setitem or node.args[2] is not changed:
        return False
    part = changed.args[0]
    taken = isinstance(part, fx.Node) and part.target is operator.getitem
    return taken and seen.lie_alike(part.args[0], node.args[0]) and bool(part.args[1] == node.args[1])  # type: ignore[union-attr, arg-type]


def _asks_for_shape(node: fx.Node) -> bool:
    return node.target in _SHAPES or (node.target is getattr and node.args[1] in _SHAPES)


def _make_new(node: fx.Node) -> None:
    """Let a call give a new value and leave its operand alone, where torch has such a call."""
    if "inplace" in node.kwargs:
        node.kwargs = {**node.kwargs, "inplace": False}
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    target: Any = node.target
    if node.op == "call_function" and target in _PLAIN:
        node.target = _PLAIN[target]
    elif node.op == "call_method" and target == "zero_":
        # not zeros_like, through which no gradient of zeros goes back, by which an optimiser decays what it would else leave
        node.op, node.target, node.args = "call_function", torch.fill, (*node.args, 0.0)
    elif node.op == "call_function" and is_inplace(target, node) and target.__name__.endswith("_"):
        plain = target.__name__[:-1]
        found = [f for f in (getattr(owner, plain, None) for owner in (functional, torch)) if f is not None]
        node.target = next((f for f in found if spec_of_function(f) is not None), next(iter(found), target))
    elif node.op == "call_method" and target.endswith("_") and not target.endswith("__"):
        plain = target[:-1]
        if hasattr(torch.Tensor, plain) and plain not in _DRAWS:
            node.target = plain


def _seen(traced: Traced, module: nn.Module, twin: nn.Module, inputs: ExampleInputs, known: ShapesSeen) -> _Seen:
    last = next(reversed(traced.graph.nodes))
    with torch.no_grad():
        try:
            watch: _MetaWatch = _MetaWatch(_in_mode_of(twin, traced), traced.root, traced.graph, inputs.without_data(2))
            with Shapes(known), torch.device("meta"):  # what a forward makes too: a change would be one of a copy
                watch.upto(last)
            return watch.seen
        except Exception:  # whatever an op raises that cannot run without data
            copied = _in_mode_of(copy_of(module), traced)
            for name, tensor in traced.constants.items():
                setattr(copied, name, tensor)
            real = _Watch(copied, graph=traced.graph)
            real.run(*(x.clone() for x in inputs.rows([0, 0]).tensors))
            return real.seen


def _in_mode_of(module: nn.Module, traced: Traced) -> nn.Module:
    modes = {path: child.training for path, child in traced.root.named_modules()}
    for path, child in module.named_modules():
        child.training = modes.get(path, child.training)
    return module


class _Watch(Interpreter):
    """A run that notes where values lie, and what changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = _Seen()

    def run_node(self, n: fx.Node) -> Any:
        operands = [source for source in n.all_input_nodes if isinstance(self.env[source], torch.Tensor)]
        versions = [self.env[source]._version for source in operands]
        result = super().run_node(n)
        self.seen.note(n, result)
        for source, version in zip(operands, versions, strict=True):
            if self.env[source]._version != version and not _is_a_layers(n, source):
                self.seen.changes.setdefault(n, source)
        return result


class _MetaWatch(_Watch, MetaRun):
    pass


def _is_a_layers(node: fx.Node, source: fx.Node) -> bool:
    """Whether a tensor is a parameter or statistic of an op that knows how to change it: rows that are renormed, running means."""
    target: Any = node.target
    spec = spec_of_function(target) if source.op == "get_attr" else None
    call = spec.call_of(target) if spec is not None else None
    bound = bind(call, node, {}) if call is not None else None
    return call is not None and bound is not None and any(bound.get(name) is source for name in call.params)
