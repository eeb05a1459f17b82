"""What a structural difference of two graphs consists of; `gngraph.ir.diff` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from gngraph.ir.diff_text import render


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
class Lineage:
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
    lineage: Lineage | None


@dataclass(frozen=True)
class WeightDiff:
    """Parameters of equal type in both graphs whose values were compared.

    Attributes:
        compared: number of tensors compared (tensors on the meta device have no values and are left out).
        differing: names of those with different values (two NaNs count as equal), in the order of graph b.
    """

    compared: int
    differing: tuple[str, ...]


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

    def render(self) -> str:
        """A readable account; "no differences" when neither structure nor values differ. Compares the values."""
        return render(self)

    def to_json(self) -> dict[str, Any]:
        """The diff as JSON values. Compares the values of parameters."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if not name.startswith("_")}
        record |= {"is_empty": self.is_empty, "weights": self.weights}
        converted: dict[str, Any] = _jsonable(record)
        return converted


def _same_values(old: torch.Tensor, new: torch.Tensor) -> bool:
    if old is new or torch.equal(old, new := new.to(old.device)):
        return True
    return bool(((old == new) | ((old != old) & (new != new))).all())  # two NaNs are equal here


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return _jsonable(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
