"""What a structural difference of two graphs consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_SHOWN = 6
"""Channels listed by number before "..."."""


@dataclass(frozen=True)
class FieldChange:
    """One field that differs, with both values in the words of the text form ("" where a side has none)."""

    field: str
    old: str
    new: str


@dataclass(frozen=True)
class NodeEdit:
    """A node that was added, removed or changed.

    Attributes:
        kind: which of the three.
        name: the node.
        op: its op, in graph b where it is there.
        after: the node before it, in graph b where it is there (None: it comes first).
        old: its line in graph a ("" when added).
        new: its line in graph b ("" when removed).
        fields: when changed, what differs: "op", "inputs", "param ROLE", "attr KEY", "type", "module" or "scope".
    """

    kind: Literal["added", "removed", "changed"]
    name: str
    op: str
    after: str | None
    old: str = ""
    new: str = ""
    fields: tuple[FieldChange, ...] = ()

    @property
    def is_consequence(self) -> bool:
        """Whether only the type of its value differs, because what it reads differs."""
        return self.op != "input" and [change.field for change in self.fields] == ["type"]


@dataclass(frozen=True)
class Resize:
    """An axis of a parameter whose size differs."""

    param: str
    axis: int
    old: int
    new: int


@dataclass(frozen=True)
class ParamChange:
    """A parameter that differs in more than the sizes of its axes.

    Attributes:
        name: the parameter.
        fields: what differs: "kind", "dtype", "trainable", "aliases" or "shape" (when the number of axes differs).
    """

    name: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True)
class SpaceLineage:
    """Where the channels of a space come from.

    Attributes:
        split: source channel of every channel that is there once more than in graph a, in ascending order.
        new: number of channels without a source.
        pruned: channels of graph a that no channel comes from.
        moved: whether the channels that stay are in another order.
    """

    split: tuple[int, ...]
    new: int
    pruned: tuple[int, ...]
    moved: bool

    def __str__(self) -> str:
        """Such as "+5 split from 3, 9, 11, 20, 41, +3 new, -1 pruned (7)"; "" where all channels are the same."""
        parts = []
        if self.split:
            parts.append(f"+{len(self.split)} split from {_listed(self.split)}")
        if self.new:
            parts.append(f"+{self.new} new")
        if self.pruned:
            parts.append(f"-{len(self.pruned)} pruned ({_listed(self.pruned)})")
        if self.moved:
            parts.append("reordered")
        return ", ".join(parts)


def _listed(numbers: Sequence[int]) -> str:
    text = ", ".join(str(number) for number in numbers[:_SHOWN])
    return f"{text}, ..." if len(numbers) > _SHOWN else text


@dataclass(frozen=True)
class SpaceChange:
    """A channel space that changed size or whose channels come from others than before.

    Attributes:
        name: the space.
        old: number of channels in graph a.
        new: number of channels in graph b.
        resizes: the resized axes that belong to it.
        lineage: where its channels come from, if the caller said so.
    """

    name: str
    old: int
    new: int
    resizes: tuple[Resize, ...]
    lineage: SpaceLineage | None

    @property
    def origin(self) -> str:
        """Where its channels come from, in words; "" where nobody said so."""
        return "" if self.lineage is None else str(self.lineage)


@dataclass(frozen=True)
class WeightDiff:
    """Parameters of equal type in both graphs whose values were compared.

    Attributes:
        compared: number of tensors compared (tensors on the meta device have no values and are left out).
        differing: names of those with different values (two NaNs count as equal), in the order of graph b.
    """

    compared: int
    differing: tuple[str, ...]
