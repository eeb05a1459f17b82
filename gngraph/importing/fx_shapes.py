"""Reading torch.fx calls that reshape, index, or compute with sizes: their arguments come in many spellings."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.importing.fx_spellings import other_spelling
from gngraph.ir import Attr, Node, OpaqueType, Ref, Slice, TensorType, TupleType
from gngraph.ir.types import refs_in
from gngraph.ops.assign import assigned
from gngraph.ops.pieces import read_index
from gngraph.ops.read_sizes import ARITHMETIC, FRACTIONS, PROPERTIES, ROUNDED_UP
from gngraph.ops.reshape import read_shape, regrouping
from gngraph.ops.shape import squeezed_whole
from gngraph.ops.spec import operands_of

_FIELDS: dict[Any, int] = {"values": 0, "indices": 1}
"""Names of the items that reductions with positions return."""

_SIZED = {"expand": "expand", "broadcast_to": "expand", torch.broadcast_to: "expand", "repeat": "repeat"}
"""Ops that take as many sizes as there are axes, by their spellings."""

_TRANSPOSES = ("t", torch.t, "T", "mT")
"""Spellings that name no axes: of a matrix, but for mT, which takes the last two axes."""


class Importer(Protocol):
    """What these readers need of an import under way."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes so far."""
        ...

    def attr(self, arg: Any) -> Attr:
        """An fx argument as an attribute."""
        ...

    def value(self, arg: Any) -> str:
        """Name of the value that an fx argument is."""
        ...

    def infers(self, node: Node) -> bool:
        """Whether the type rule accepts the node."""
        ...


def shape_node(importer: Importer, fx_node: fx.Node) -> Node | None:
    """The node of a call that reshapes, indexes or computes with sizes; None for other calls and what has no rule."""
    target: Any = fx_node.target
    if target in ("view", "reshape", torch.reshape):
        return _reshape(importer, fx_node)
    if target in ("unflatten", torch.unflatten):
        return _unflatten(importer, fx_node)
    if target in _SIZED:
        return _sized(importer, fx_node, _SIZED[target], "sizes", {})
    if (node := other_spelling(importer, fx_node)) is not None:
        return node
    if target in ("permute", torch.permute):
        return _permute(importer, fx_node)
    if target in ("squeeze", torch.squeeze) and len(fx_node.args) + len(fx_node.kwargs) == 1:
        return _squeeze(importer, fx_node)
    if target in _TRANSPOSES or (target is getattr and fx_node.args[1] in _TRANSPOSES):
        return _transpose(importer, fx_node)
    if target is assigned:
        fx_node.args = (fx_node.args[0], _of_all_axes(importer, *fx_node.args[:2]), fx_node.args[2])
        return None
    if getattr(target, "__name__", "") == "getitem":
        return _getitem(importer, fx_node)
    if target is getattr and fx_node.args[1] == "shape":
        return Node(fx_node.name, "size", (importer.value(fx_node.args[0]),), {}, {"dim": None})
    if (target is getattr and fx_node.args[1] in PROPERTIES) or target == "dim":
        return _property(importer, fx_node)
    if target is getattr and fx_node.args[1] in _FIELDS:
        source = importer.value(fx_node.args[0])
        item = Node(fx_node.name, "getitem", (source,), {}, {"index": _FIELDS[fx_node.args[1]]})
        return item if isinstance(importer.nodes[source].type, TupleType) else None
    if target in ARITHMETIC or target in FRACTIONS:
        return _arithmetic(importer, fx_node, {**ARITHMETIC, **FRACTIONS}[target])
    if target is operator.neg and not _is_of_samples(importer.nodes[importer.value(fx_node.args[0])]):
        return _arithmetic(importer, fx_node, "mul", -1)
    if target is math.ceil and isinstance(quotient := fx_node.args[0], fx.Node):
        rounded = rounded_up(importer, quotient)
        return None if rounded is None else replace(rounded, name=fx_node.name)
    return None


def rounded_up(importer: Importer, fx_node: fx.Node) -> Node | None:
    """The quotient of a size, rounded up, where all that reads it rounds it up; None for other calls.

    Args:
        importer: the import under way.
        fx_node: the call that divides.
    """
    if fx_node.target is not operator.truediv or any(user.target is not math.ceil for user in fx_node.users):
        return None
    return _arithmetic(importer, fx_node, ROUNDED_UP)


def _property(importer: Importer, fx_node: fx.Node) -> Node | None:
    source = importer.value(fx_node.args[0])
    if not isinstance(importer.nodes[source].type, TensorType):
        return None
    name = fx_node.args[1] if fx_node.target is getattr else "dim"
    return Node(fx_node.name, "property", (source,), {}, {"name": name})


def _reshape(importer: Importer, fx_node: fx.Node) -> Node | None:
    method = fx_node.target if isinstance(fx_node.target, str) else "reshape"
    return _sized(importer, fx_node, "reshape", "shape", {"method": method})


def _sized(importer: Importer, fx_node: fx.Node, op: str, attr: str, others: dict[str, Attr]) -> Node | None:
    entries = [importer.attr(a) for a in (*fx_node.args[1:], *fx_node.kwargs.values())]
    sizes = read_shape(entries)
    source = importer.value(fx_node.args[0])
    if sizes is None or not isinstance(importer.nodes[source].type, TensorType):
        return None
    refs = tuple(dict.fromkeys(refs_in(sizes)))
    if not _are_sizes(importer, refs):
        return None
    node = Node(fx_node.name, op, (source, *refs), {}, {attr: sizes, **others})
    if op == "reshape":
        return _with_regrouping(importer, node)
    return node if importer.infers(node) else None


def _with_regrouping(importer: Importer, node: Node) -> Node | None:
    """A reshape with the groups of axes that its sizes at import give it; None where they do not fit."""
    try:
        groups = regrouping(operands_of(node, tuple(importer.nodes[i].type for i in node.inputs), {}))
    except IRError:
        return None
    return replace(node, attrs={**node.attrs, "regroup": groups})


def _unflatten(importer: Importer, fx_node: fx.Node) -> Node | None:
    args = [*fx_node.args[1:], *fx_node.kwargs.values()]
    source = importer.value(fx_node.args[0])
    type_ = importer.nodes[source].type
    if len(args) != 2 or not isinstance(args[0], int) or not isinstance(type_, TensorType):
        return None
    sizes, dim = read_shape([importer.attr(args[1])]), args[0] % len(type_.shape)
    if sizes is None or not _are_sizes(importer, refs_in(sizes)):
        return None
    kept: list[Attr] = [None] * len(type_.shape)
    kept[dim : dim + 1] = sizes
    inputs = (source, *dict.fromkeys(refs_in(sizes)))
    node = Node(fx_node.name, "reshape", inputs, {}, {"shape": tuple(kept), "method": "unflatten"})
    return _with_regrouping(importer, node)


def _are_sizes(importer: Importer, refs: Iterable[str]) -> bool:
    """Whether values are single sizes of which something is known."""
    types = [importer.nodes[ref].type for ref in refs]
    return all(isinstance(t, OpaqueType) and t.value is not None and not isinstance(t.value, tuple) for t in types)


def _permute(importer: Importer, fx_node: fx.Node) -> Node | None:
    dims = read_shape([importer.attr(a) for a in (*fx_node.args[1:], *fx_node.kwargs.values())])
    if dims is None or any(refs_in(dims)):
        return None
    return Node(fx_node.name, "permute", (importer.value(fx_node.args[0]),), {}, {"dims": dims})


def _squeeze(importer: Importer, fx_node: fx.Node) -> Node | None:
    """All axes of a single entry, by their numbers, so that channels are none of them when a single one is left."""
    source = importer.value(fx_node.args[0])
    type_ = importer.nodes[source].type
    axes = squeezed_whole(type_) if isinstance(type_, TensorType) else None
    return None if axes is None else Node(fx_node.name, "squeeze", (source,), {}, {"dim": axes})


def _transpose(importer: Importer, fx_node: fx.Node) -> Node | None:
    source = importer.value(fx_node.args[0])
    type_ = importer.nodes[source].type
    spelling = fx_node.args[1] if fx_node.target is getattr else fx_node.target
    if not isinstance(type_, TensorType) or (len(type_.shape) < 2 if spelling == "mT" else len(type_.shape) != 2):
        return None
    return Node(fx_node.name, "transpose", (source,), {}, {"dim0": -2, "dim1": -1})


def _getitem(importer: Importer, fx_node: fx.Node) -> Node | None:
    source, index = importer.value(fx_node.args[0]), fx_node.args[1]
    type_ = importer.nodes[source].type
    if isinstance(type_, TensorType) and isinstance(index, fx.Node):
        rows = Node(fx_node.name, "take", (source, importer.value(index)), {}, {})
        return rows if importer.infers(rows) else None
    if isinstance(type_, TensorType):
        index = _of_all_axes(importer, fx_node.args[0], index)
        fx_node.args = (fx_node.args[0], index)
        if (taken := _take(importer, fx_node, source, index)) is not None:
            return taken
        entries = read_index(_with_sizes(importer, index), type_.shape)
        if entries is None:
            return None
        node = Node(fx_node.name, "index", (source, *dict.fromkeys(refs_in(entries))), {}, {"index": entries})
        return node if importer.infers(node) else None
    if isinstance(index, slice) and isinstance(type_, OpaqueType):
        bounds = (index.start, index.stop, index.step)
        if all(bound is None or isinstance(bound, int) for bound in bounds) and isinstance(type_.value, tuple):
            return Node(fx_node.name, "getitem", (source,), {}, {"index": Slice(*bounds)})
        return None
    if not isinstance(index, int) or (isinstance(type_, OpaqueType) and not isinstance(type_.value, tuple)):
        return None
    return Node(fx_node.name, "getitem", (source,), {}, {"index": index})


def _take(importer: Importer, fx_node: fx.Node, source: str, index: Any) -> Node | None:
    """Entries by numbers along some axes, the others whole; None for other indices."""
    entries = list(index) if isinstance(index, tuple) else [index]
    axes = [axis for axis, entry in enumerate(entries) if isinstance(entry, fx.Node)]
    if not axes or any(not isinstance(entry, fx.Node) and entry != slice(None) for entry in entries):
        return None
    numbers = [importer.value(entries[axis]) for axis in axes]
    if not all(isinstance(importer.nodes[name].type, TensorType) for name in (source, *numbers)):
        return None
    node = Node(fx_node.name, "take", (source, *numbers), {}, {"axes": tuple(axes)})
    return node if importer.infers(node) else None


def _of_all_axes(importer: Importer, source: Any, index: Any) -> Any:
    """An index in which an ellipsis is written out."""
    entries = list(index) if isinstance(index, tuple) else [index]
    type_ = importer.nodes[importer.value(source)].type
    at = next((i for i, entry in enumerate(entries) if entry is Ellipsis), None)
    if at is None or not isinstance(type_, TensorType):
        return index
    taken = sum(_axes_of(importer, entry) for entry in entries if entry is not Ellipsis)
    return *entries[:at], *[slice(None)] * (len(type_.shape) - taken), *entries[at + 1 :]


def _axes_of(importer: Importer, entry: Any) -> int:
    """How many axes an entry of an index takes: a mask has several, a new axis is none."""
    if not isinstance(entry, fx.Node):
        return int(entry is not None)
    type_ = importer.nodes[importer.value(entry)].type
    return len(type_.shape) if isinstance(type_, TensorType) and type_.dtype == "bool" else 1


def _with_sizes(importer: Importer, index: Any) -> Any:
    """An index in which bounds that are sizes are references to their nodes; other nodes stay as they are."""
    if isinstance(index, tuple):
        return tuple(_with_sizes(importer, entry) for entry in index)
    if not isinstance(index, slice):
        return index
    start, stop = (importer.attr(b) if isinstance(b, fx.Node) else b for b in (index.start, index.stop))
    return slice(start, stop, index.step)


def _is_of_samples(node: Node) -> bool:
    """Whether a size goes with the number of samples."""
    return isinstance(node.type, OpaqueType) and isinstance(node.type.value, str)


def _arithmetic(importer: Importer, fx_node: fx.Node, function: str, *factors: int) -> Node | None:
    operands = (*(importer.attr(arg) for arg in fx_node.args), *factors)
    sizes = [importer.nodes[attr.name].type for attr in operands if isinstance(attr, Ref)]
    if not sizes or not all(isinstance(t, OpaqueType) and t.text in ("int", "float") for t in sizes):
        return None
    if not all(isinstance(attr, (Ref, int, float)) for attr in operands):
        return None
    if len(operands) != (1 if fx_node.target is math.sqrt else 2) or fx_node.kwargs:
        return None
    if fx_node.target is operator.pow and not any(isinstance(attr, float) for attr in operands):
        return None
    inputs = tuple(dict.fromkeys(refs_in(operands)))
    attrs = {"function": function, "operands": operands}
    return Node(fx_node.name, "size_arithmetic", inputs, {}, attrs)
