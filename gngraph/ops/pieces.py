"""Ops that take an axis apart: chunk, split, unbind, and indexing with constants."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Listed, Node, Ref, Slice, TensorType, TupleType, Type
from gngraph.ir.types import attr_at
from gngraph.ops.rules import emit_simple, freeze_inputs, freeze_sizes
from gngraph.ops.sizes import hold_size, known_size, known_sizes, scaled
from gngraph.ops.spec import AttrPath, Call, ChannelRules, Emitter, Layout, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def _dim(operands: Operands) -> int:
    return int(operands.node.attrs["dim"]) % len(operands.tensor().shape)


PIECES = "pieces"
"""Attribute of a chunk, or of a split in pieces of one size: the sizes of the pieces where they are not all the same."""


def _listed(node: Node) -> AttrPath | None:
    """Where the sizes of all pieces stand in the attributes; None where one number gives them."""
    if PIECES in node.attrs:
        return (PIECES,)
    return ("sizes",) if node.op == "split" and not isinstance(node.attrs["sizes"], int | Ref) else None


def _counted_out(node: Node, length: int, size: int) -> list[int]:
    """Lengths of the pieces of an axis as one number gives them, that of the chunks or the `size` of the pieces."""
    size = size if node.op == "split" else -(-length // int(node.attrs["chunks"]))
    return [min(size, length - start) for start in range(0, length, size)]


def _lengths(operands: Operands) -> list[int]:
    """Lengths of the pieces along the axis."""
    node, length = operands.node, operands.tensor().shape[_dim(operands)]
    if isinstance(length, str):
        raise IRError(f"node '{node.name}' ({node.op}) takes the batch axis apart")
    path = _listed(node)
    given = node.attrs.get("sizes", length) if path is None else attr_at(node.attrs, path)
    sizes = [size for size in known_sizes(given, operands) if isinstance(size, int)]
    if len(sizes) < len(known_sizes(given, operands)):
        raise IRError(f"node '{node.name}' ({node.op}) takes an axis apart in pieces of sizes that are not known")
    lengths = sizes if path is not None else _counted_out(node, length, sizes[0])
    if sum(lengths) != length:
        raise IRError(f"node '{node.name}' ({node.op}) takes {length} entries apart in pieces of {lengths}")
    if isinstance(given, Ref) and len(set(lengths)) > 1:
        raise IRError(f"node '{node.name}' ({node.op}) leaves pieces of unequal size by a size that it reads")
    return lengths


def listing_pieces(operands: Operands) -> Node:
    """The node with the sizes of its pieces, where one number gives pieces that are not all of one size; others as they are.

    Channels come and go in each of such pieces by itself, so that no one number gives them any more.

    Args:
        operands: any node, as an import makes it.
    """
    node = operands.node
    if node.op not in ("chunk", "split") or _listed(node) is not None:
        return node
    lengths = _lengths(operands)
    return replace(node, attrs={**node.attrs, PIECES: tuple(lengths)}) if len(set(lengths)) > 1 else node


def _size_paths(node: Node, count: int) -> list[AttrPath]:
    """Where the sizes of pieces stand: of each, or of all in one number; a chunk has none."""
    listed = _listed(node)
    if listed is not None:
        return [(*listed, i) for i in range(count)]
    return [("sizes",)] if node.op == "split" else []


def _infer_pieces(operands: Operands) -> Type:
    x, dim = operands.tensor(), _dim(operands)
    return TupleType(tuple(TensorType(x.dtype, (*x.shape[:dim], n, *x.shape[dim + 1 :])) for n in _lengths(operands)))


def _pieces_channels(rules: ChannelRules, operands: Operands) -> None:
    node, dim, lengths = operands.node, _dim(operands), _lengths(operands)
    layout, listed = rules.layout(0, dim), _listed(node)
    pieces: list[Layout | None] = [None] * len(lengths)
    if listed is None and len(set(lengths)) > 1:  # of files that were written before the pieces were listed
        rules.freeze(layout, f"{node.op} leaves pieces of unequal size; import the network again")
    elif layout is not None:
        pieces = rules.divide(layout, lengths, f"{node.op} cuts through its channels")
        if pieces[0] is not None and listed is None:
            piece = rules.unify(pieces)
            pieces = [piece] * len(lengths)
    for piece, path in zip(pieces, _size_paths(node, len(lengths)), strict=False):
        if piece is not None or isinstance(attr_at(node.attrs, path), Ref):
            hold_size(rules, operands, path, piece)
    for item in range(len(lengths)):
        for axis in range(len(operands.tensor().shape)):
            rules.set(axis, pieces[item] if axis == dim else rules.layout(0, axis), item)


def _emit_pieces(emitter: Emitter, node: Node) -> fx.Node:
    """As it was called, unless its pieces have come to be other ones than that call gives."""
    x, listed = emitter.value(node.inputs[0]), list(node.attrs.get(PIECES, ()))
    if listed and _counted_out(node, sum(listed), node.attrs.get("sizes", 1)) != listed:
        return emitter.call(torch.split, x, listed, dim=node.attrs["dim"])
    if node.op == "chunk":
        return emitter.call(torch.chunk, x, node.attrs["chunks"], dim=node.attrs["dim"])
    sizes: Attr = node.attrs["sizes"]
    own = Listed(sizes) if isinstance(sizes, tuple) else sizes
    return emitter.call(torch.split, x, emitter.resolve(own), dim=node.attrs["dim"])


_CHUNK = Call(signature("input chunks dim=0"))
register(
    OpSpec(
        "chunk",
        _infer_pieces,
        _pieces_channels,
        _emit_pieces,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        functions={torch.chunk: _CHUNK, "chunk": _CHUNK},
    )
)


_SPLIT = Call(signature("input sizes dim=0"), sizes=("sizes",))
register(
    OpSpec(
        "split",
        _infer_pieces,
        _pieces_channels,
        _emit_pieces,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        functions={torch.split: _SPLIT, "split": _SPLIT, "split_with_sizes": _SPLIT},
    )
)


def _infer_unbind(operands: Operands) -> Type:
    x, dim = operands.tensor(), _dim(operands)
    if isinstance(x.shape[dim], str):
        raise IRError(f"node '{operands.node.name}' (unbind) takes the batch axis apart")
    return TupleType((TensorType(x.dtype, (*x.shape[:dim], *x.shape[dim + 1 :])),) * int(x.shape[dim]))


def _unbind_channels(rules: ChannelRules, operands: Operands) -> None:
    dim, shape = _dim(operands), operands.tensor().shape
    rules.freeze(rules.layout(0, dim), "unbind gives one value for each of its channels")
    for item in range(int(shape[dim])):
        for axis in range(len(shape)):
            if axis != dim:
                rules.set(axis - (axis > dim), rules.layout(0, axis), item)


_UNBIND = Call(signature("input dim=0"))
register(
    OpSpec(
        "unbind",
        _infer_unbind,
        _unbind_channels,
        emit_simple(None, torch.unbind),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        functions={torch.unbind: _UNBIND, "unbind": _UNBIND},
    )
)


def read_index(index: object, shape: Sequence[Dim]) -> tuple[Attr, ...] | None:
    """An index of ints, slices, None and `...` as an attribute: one entry an axis, numbers and bounds as they are written.

    What is counted from the end stays so, for the axis may be of another length when the network runs. Bounds may be references
    to sizes. None for anything else: tensors, an ellipsis beside new axes, a part of a symbolic axis.
    """
    entries: list[Any] = list(index) if isinstance(index, tuple) else [index]
    lists = [i for i, entry in enumerate(entries) if isinstance(entry, list) and [type(x) for x in entry] == [int]]
    if len(lists) == 1 and not any(isinstance(entry, int) for entry in entries):  # an axis of the one entry
        (number,) = entries[lists[0]]
        entries[lists[0]] = slice(number, number + 1 or None)
    real = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if Ellipsis in [entry for entry in entries if not hasattr(entry, "graph")]:
        at = next(i for i, entry in enumerate(entries) if entry is Ellipsis)
        entries[at : at + 1] = [slice(None)] * (len(shape) - real)
    result: list[Attr] = []
    axis = 0
    for entry in entries:
        if entry is None:
            result.append(None)
            continue
        if axis >= len(shape):
            return None
        length = shape[axis]
        axis += 1
        if entry == slice(None):
            result.append(Slice(None, None, None))
        elif isinstance(length, str) or isinstance(entry, bool):
            return None
        elif isinstance(entry, int):
            result.append(entry)
        elif isinstance(entry, slice) and all(_is_bound(b) for b in (entry.start, entry.stop)) and _is_step(entry.step):
            result.append(Slice(entry.start, entry.stop, entry.step))
        else:
            return None
    return tuple(result)


def _is_bound(value: object) -> bool:
    return value is None or (isinstance(value, (int, Ref)) and not isinstance(value, bool))


def _is_step(value: object) -> bool:
    return value is None or (isinstance(value, int) and value > 0)


def _infer_index(operands: Operands) -> Type:
    x = operands.tensor()
    shape: list[Dim] = []
    axis = 0
    for entry in operands.node.attrs["index"]:
        if entry is None:
            shape.append(1)
            continue
        if isinstance(entry, Slice):
            whole = entry == Slice(None, None, None)
            length = x.shape[axis]
            start, stop = (known_size(b, operands) if isinstance(b, Ref) else b for b in (entry.start, entry.stop))
            unknown = (start is None) != (entry.start is None) or (stop is None) != (entry.stop is None)
            if isinstance(start, str) or isinstance(stop, str) or unknown:
                raise IRError(f"node '{operands.node.name}' (index) takes a part whose bounds are not known")
            shape.append(length if whole else len(range(int(length))[slice(start, stop, entry.step)]))
        elif not -int(x.shape[axis]) <= entry < int(x.shape[axis]):
            raise IRError(f"node '{operands.node.name}' (index) takes entry {entry} of an axis of {x.shape[axis]}")
        axis += 1
    return TensorType(x.dtype, (*shape, *x.shape[axis:]))


def _index_channels(rules: ChannelRules, operands: Operands) -> None:
    shape = operands.tensor().shape
    axis = position = 0
    for number, entry in enumerate(operands.node.attrs["index"]):
        if entry is None:
            position += 1
            continue
        layout = rules.layout(0, axis)
        if not isinstance(entry, Slice):
            if entry not in (0, -1) or not rules.unread():  # the first and the last are there at any width
                rules.freeze(layout, "a single channel of it is taken by its number")
        else:
            if _is_counted(rules, layout, entry, position):
                rules.count(axis)
            else:
                rules.set(position, _sliced(rules, operands, layout, entry, number))
            position += 1
        axis += 1
    for rest in range(axis, len(shape)):
        rules.set(position + rest - axis, rules.layout(0, rest))


def _is_counted(rules: ChannelRules, layout: Layout | None, entry: Slice, position: int) -> bool:
    """Whether the first channels of a space are taken for statistics: others may come behind them, which those do not count."""
    stop = entry.stop
    if (
        layout is None
        or len(layout) != 1
        or entry.start is not None
        or not isinstance(stop, int)
        or entry.step not in (None, 1)
    ):
        return False
    return 0 < stop < layout[0].length and stop % layout[0].inner == 0 and rules.only_counted(position)


def _sliced(rules: ChannelRules, operands: Operands, layout: Layout | None, entry: Slice, number: int) -> Layout | None:
    """The layout of a part of an axis; `number` is the place of the slice in the index."""
    bounds = {name: getattr(entry, name) for name in ("start", "stop")}
    if layout is None:
        for name, bound in bounds.items():
            if isinstance(bound, Ref):
                hold_size(rules, operands, ("index", number, name), None)
        return None
    if entry == Slice(None, None, None):
        return layout
    length = sum(segment.length for segment in layout)
    sizes = {name: known_size(bound, operands) for name, bound in bounds.items() if bound is not None}
    known = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if entry.step not in (None, 1):
        reason = f"every {entry.step}th channel of it is taken"
    elif known.keys() != sizes.keys() or any(abs(bound) > length for bound in known.values()):
        reason = "a slice reaches beyond its channels"
    elif any(isinstance(bounds[name], Ref) and bound < 0 for name, bound in known.items()):
        reason = "a part of it is taken by a size"
    else:
        start, stop, _ = slice(known.get("start"), known.get("stop")).indices(length)
        before, piece, behind = rules.divide(
            layout, [start, stop - start, length - stop], "a slice cuts through its channels"
        )
        if before is None or piece is None or behind is None:
            return None
        sides = {"start": (before, piece + behind), "stop": (before + piece, behind)}
        for name, bound in known.items():
            (front, rest), path = sides[name], ("index", number, name)
            if isinstance(bounds[name], Ref):
                hold_size(rules, operands, path, front)
            else:
                rules.measure(path, front if bound >= 0 else scaled(rest, -1))
        return piece
    rules.freeze(layout, reason)
    freeze_sizes(rules, operands, reason)
    return None


def _emit_index(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.call(operator.getitem, emitter.value(node.inputs[0]), emitter.resolve(node.attrs["index"]))


register(
    OpSpec("index", _infer_index, _index_channels, _emit_index, channelwise=True, linear=True, nonnegative=with_first)
)


def _moved_channels(rules: ChannelRules, operands: Operands) -> None:
    """Entries move along axes: those may hold no space, the others keep theirs."""
    rank, dims = len(operands.tensor().shape), operands.node.attrs["dims"]
    if dims is None:
        freeze_inputs(rules, operands, f"{operands.node.op} moves its entries")
        return
    for axis in range(rank):
        if axis in {d % rank for d in ((dims,) if isinstance(dims, int) else dims)}:
            rules.freeze(rules.layout(0, axis), f"{operands.node.op} moves its channels")
        else:
            rules.set(axis, rules.layout(0, axis))


def _emit_flip(emitter: Emitter, node: Node) -> fx.Node:
    x, dims = emitter.value(node.inputs[0]), node.attrs["dims"]
    # the function takes no single number, as the method does
    return emitter.method("flip", x, dims) if isinstance(dims, int) else emitter.call(torch.flip, x, dims)


for _name, _function, _emit, _call in (
    ("roll", torch.roll, emit_simple(None, torch.roll), Call(signature("input shifts dims=None"))),
    ("flip", torch.flip, _emit_flip, Call(signature("input dims"))),
):
    register(
        OpSpec(
            _name,
            lambda operands: operands.tensor(),
            _moved_channels,
            _emit,
            channelwise=True,
            linear=True,
            nonnegative=with_first,
            functions={_function: _call, _name: _call},
        )
    )
