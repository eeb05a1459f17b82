"""`GraphDiff`: the structural difference of two graphs, which renders itself; `gngraph.ir.diff` computes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from gngraph.ir.changes import FieldChange, NodeEdit, ParamChange, Resize, SpaceChange, WeightDiff
from gngraph.ir.lexer import with_sigil

_BAR = 32
"""Signs of the longest bar of a stat."""


@dataclass(frozen=True)
class GraphDiff:
    """What differs between graph a and graph b; names identify nodes and parameters.

    Attributes:
        a_name, b_name: names of the graphs.
        num_params: entries of all nn.Parameters in a and in b.
        num_nodes: number of nodes in a and in b.
        header: what differs of the graphs as a whole: "name", "inputs", "output", "order of nodes",
            "order of parameters".
        nodes: nodes of b alone, of a alone, and those of both that differ, in the order of b.
        params_added, params_removed: name -> line in the text form, of parameters of b alone and of a alone.
        params_changed: parameters of both that differ in more than sizes.
        resized: every axis whose size differs, in the order of b's parameters.
        spaces: the changed spaces, in the caller's order.
        unassigned: the part of `resized` that belongs to no changed space.
        renamed: nodes of b -> the nodes of a that they were matched with by structure, where names do not agree; everything here
            has the names of a. Other names are no difference.
    """

    a_name: str
    b_name: str
    num_params: tuple[int, int]
    num_nodes: tuple[int, int]
    header: tuple[FieldChange, ...]
    nodes: tuple[NodeEdit, ...]
    params_added: Mapping[str, str]
    params_removed: Mapping[str, str]
    params_changed: tuple[ParamChange, ...]
    resized: tuple[Resize, ...]
    spaces: tuple[SpaceChange, ...]
    unassigned: tuple[Resize, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    _tensors: tuple[tuple[str, torch.Tensor, torch.Tensor], ...] = field(default=(), repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether the graphs are the same up to the values of their parameters."""
        found = (self.header, self.nodes, self.params_added, self.params_removed, self.params_changed)
        return not any((*found, self.resized, self.spaces))

    @property
    def nodes_added(self) -> tuple[NodeEdit, ...]:
        """Nodes of b alone."""
        return tuple(edit for edit in self.nodes if edit.kind == "added")

    @property
    def nodes_removed(self) -> tuple[NodeEdit, ...]:
        """Nodes of a alone."""
        return tuple(edit for edit in self.nodes if edit.kind == "removed")

    @property
    def nodes_changed(self) -> tuple[NodeEdit, ...]:
        """Nodes of both that differ."""
        return tuple(edit for edit in self.nodes if edit.kind == "changed")

    @cached_property
    def weights(self) -> WeightDiff:
        """Values compared, on first use: one read of all parameters that the graphs do not share."""
        return WeightDiff(len(self._tensors), tuple(n for n, old, new in self._tensors if not _same_values(old, new)))

    @cached_property
    def distances(self) -> Mapping[str, float]:
        """How far the values of each parameter that differs have moved: the norm of the difference over that of the values in a.

        Infinite where a has zeros alone, or either has values that are not finite.
        """
        tensors = {name: (old, new) for name, old, new in self._tensors}
        return {name: _distance(*tensors[name]) for name in self.weights.differing}

    def summary(self) -> str:
        """One line: sizes of both, and how much differs."""
        return _summary(self)

    def stat(self) -> str:
        """One line for each changed channel space and each parameter whose values moved, as `git diff --stat` has of files."""
        return "\n".join(_stat(self))

    def render(self) -> str:
        """A readable account; "no differences" when neither structure nor values differ. Compares the values."""
        return _render(self)

    def to_json(self) -> dict[str, Any]:
        """The diff as JSON values. Compares the values of parameters."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if not name.startswith("_")}
        moved = {name: distance if math.isfinite(distance) else None for name, distance in self.distances.items()}
        record |= {"is_empty": self.is_empty, "weights": self.weights, "distances": moved}
        converted: dict[str, Any] = _jsonable(record)
        return converted


def _same_values(old: torch.Tensor, new: torch.Tensor) -> bool:
    if old is new or torch.equal(old, new := new.to(old.device)):
        return True
    return bool(((old == new) | ((old != old) & (new != new))).all())  # two NaNs are equal here


def _distance(old: torch.Tensor, new: torch.Tensor) -> float:
    before, after = (x.detach().to("cpu", torch.complex128 if x.is_complex() else torch.float64) for x in (old, new))
    moved, size = float((after - before).norm()), float(before.norm())
    return moved / size if size and math.isfinite(moved) else math.inf


def _stat(diff: GraphDiff) -> Iterator[str]:
    width = max((len(name) for name in (*(s.name for s in diff.spaces), *diff.distances)), default=0)
    reach = max((abs(space.new - space.old) for space in diff.spaces), default=1) or 1
    for space in diff.spaces:
        signs = -(-_BAR * abs(space.new - space.old) // reach) * ("+" if space.new > space.old else "-")
        yield f"{space.name:<{width}}  {f'{space.old} -> {space.new}':<14}  {signs or '(other channels)'}"
    for name, distance in diff.distances.items():
        how = f"by {distance:.1%}" if math.isfinite(distance) else "from zeros"
        yield f"{name:<{width}}  values moved {how}"
    yield from _matched(diff)
    yield "no differences" if diff.is_empty and not diff.weights.differing else _summary(diff)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return _jsonable(asdict(value)) if hasattr(value, "__dataclass_fields__") else value


def _render(diff: GraphDiff) -> str:
    """The account that `GraphDiff.render` documents; it ends without a newline."""
    matched = list(_matched(diff))
    if diff.is_empty and not diff.weights.differing:
        return "\n".join([*matched, "no differences"])
    lines = [*matched, _summary(diff)]
    for change in diff.header:
        lines += ["", *_header(change)]
    for space in diff.spaces:
        lines += ["", *_space(space)]
    lines += _titled("parameters", _parameters(diff))
    lines += _titled("nodes", _nodes(diff))
    lines += ["", _weights(diff)]
    lines += _titled("resized, in no space" if diff.spaces else "resized", _by_axis(diff.unassigned, None))
    return "\n".join(lines)


def _titled(title: str, body: Iterator[str]) -> list[str]:
    lines = list(body)
    return ["", f"{title}:", *lines] if lines else []


def _summary(diff: GraphDiff) -> str:
    old, new = diff.num_params
    share = f", {(new - old) / old:+.1%}" if old else ""
    names = diff.a_name if diff.a_name == diff.b_name else f"{diff.a_name} -> {diff.b_name}"
    if diff.is_empty:
        return f"{names}: no structural differences, {new:,} parameters"
    changed = sum(not edit.is_consequence for edit in diff.nodes_changed)
    nodes = f"+{len(diff.nodes_added)} -{len(diff.nodes_removed)} ~{changed}"
    count = len(diff.spaces)
    spaces = f"; {count} channel space{'s' if count > 1 else ''} changed" if count else ""
    return (
        f"{names}: {old:,} -> {new:,} parameters ({new - old:+,}{share}); "
        f"{diff.num_nodes[0]} -> {diff.num_nodes[1]} nodes ({nodes}){spaces}"
    )


def _matched(diff: GraphDiff) -> Iterator[str]:
    if diff.renamed:
        (first, other), left = next(iter(diff.renamed.items())), diff.num_nodes[1] - len(diff.nodes_added)
        yield (
            f"names do not agree: {left} of {diff.num_nodes[1]} nodes are matched by structure, {with_sigil('%', first)} with "
            f"{with_sigil('%', other)} and so on"
        )


def _header(change: FieldChange) -> Iterator[str]:
    if change.field.startswith("order"):
        yield f"{change.field} differs"
    else:
        yield f"{change.field}:"
        yield f"- {change.old}"
        yield f"+ {change.new}"


def _space(space: SpaceChange) -> Iterator[str]:
    origin = f", {space.origin}" if space.origin else ""
    yield f"{space.name}: {space.old} -> {space.new}{origin}"
    yield from _by_axis(space.resizes, (space.old, space.new))


def _by_axis(resizes: Sequence[Resize], usual: tuple[int, int] | None) -> Iterator[str]:
    """One line an axis and size change; the sizes are left out where they are the usual ones."""
    groups: dict[tuple[int, int, int], list[str]] = {}
    for resize in resizes:
        groups.setdefault((resize.axis, resize.old, resize.new), []).append(with_sigil("@", resize.param))
    for (axis, old, new), params in groups.items():
        sizes = "" if (old, new) == usual else f", {old} -> {new}"
        yield f"    axis {axis}{sizes}: {', '.join(params)}"


def _parameters(diff: GraphDiff) -> Iterator[str]:
    yield from (f"- {line}" for line in diff.params_removed.values())
    yield from (f"+ {line}" for line in diff.params_added.values())
    for param in diff.params_changed:
        for change in param.fields:
            yield f"~ {with_sigil('@', param.name)} {change.field}: {change.old or 'none'} -> {change.new or 'none'}"


def _nodes(diff: GraphDiff) -> Iterator[str]:
    """Hunks as in a unified diff; nodes that differ only as a consequence are counted."""
    last: str | None = None
    shown = [edit for edit in diff.nodes if not edit.is_consequence]
    for index, edit in enumerate(shown):
        if index == 0 or edit.after != last:
            yield "@@ at the start @@" if edit.after is None else f"@@ after {with_sigil('%', edit.after)} @@"
        if edit.old:
            yield f"- {edit.old}"
        if edit.new:
            yield f"+ {edit.new}"
        last = edit.name
    if len(shown) < len(diff.nodes):
        yield f"({len(diff.nodes) - len(shown)} nodes differ only in the type of their value)"


def _weights(diff: GraphDiff) -> str:
    weights = diff.weights
    if not weights.compared:
        return "weights: no tensors of equal shape to compare"
    return f"weights: {len(weights.differing)} of {weights.compared} tensors of equal shape differ in values"
