"""Rows by number: embeddings, whose feature axis is the last one, and values indexed by a tensor of integers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, TensorType, Type
from gngraph.ops.leaves import leaf
from gngraph.ops.rules import broadcast_dims
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.starts import looked_up
from gngraph.ops.table import register
from gngraph.ops.traits import of_first, with_first

_OPTIONS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


def _infer(operands: Operands) -> Type:
    table = operands.params["weight"]
    return TensorType(table.dtype, (*operands.tensor().shape, table.shape[1]))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    rank = len(operands.tensor().shape)
    for axis in range(rank):
        rules.set(axis, rules.layout(0, axis))
    features = rules.produce("weight", 1)
    if operands.node.attrs["max_norm"] is not None:
        rules.freeze(features, "max_norm bounds the norm over it")
    rules.set(rank, features)


def _rows(operands: Operands) -> tuple[int, Dim]:
    return 0, operands.params["weight"].shape[0]


def _padding_row(node: Node) -> int | None:
    row: int | None = node.attrs["padding_idx"]
    return row


def _read(module: Any) -> dict[str, Attr]:
    return {name: getattr(module, name) for name in _OPTIONS}


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    x = emitter.value(node.inputs[0])
    if node.module is None:
        return emitter.call(F.embedding, x, emitter.param(node.params["weight"]), **node.attrs)
    return emitter.module(lambda: leaf(nn.Embedding, *emitter.shape(node.params["weight"]), **node.attrs), x)


register(
    OpSpec(
        "embedding",
        _infer,
        _channels,
        _emit,
        padding_row=_padding_row,
        starts={"weight": looked_up},
        looked_up=_rows,
        modules={nn.Embedding: _read},
        functions={
            F.embedding: Call(
                signature(
                    "input weight padding_idx=None max_norm=None norm_type=2.0 scale_grad_by_freq=False sparse=False"
                ),
                params=("weight",),
            )
        },
    )
)


def _infer_bag(operands: Operands) -> Type:
    x, table = operands.tensor(), operands.params["weight"]
    if len(x.shape) != 2 or len(operands.inputs) != 1:
        raise IRError(
            f"node '{operands.node.name}' (embedding_bag) reads bags by offsets or weights; give bags of equal length [N, L]"
        )
    return TensorType(table.dtype, (x.shape[0], table.shape[1]))


def _bag_channels(rules: ChannelRules, operands: Operands) -> None:
    features = rules.produce("weight", 1)
    if operands.node.attrs["max_norm"] is not None:
        rules.freeze(features, "max_norm bounds the norm over it")
    rules.set(1, features)


def _emit_bag(emitter: Emitter, node: Node) -> fx.Node:
    make: Any = nn.EmbeddingBag
    shape = emitter.shape(node.params["weight"])
    return emitter.module(lambda: make(*shape, device="meta", **node.attrs), emitter.value(node.inputs[0]))


def _read_bag(module: Any) -> dict[str, Attr]:
    return {"mode": module.mode, "include_last_offset": module.include_last_offset, **_read(module)}


register(
    OpSpec(
        "embedding_bag",
        _infer_bag,
        _bag_channels,
        _emit_bag,
        padding_row=_padding_row,
        looked_up=_rows,
        modules={nn.EmbeddingBag: _read_bag},
    )
)


def _taken(operands: Operands) -> tuple[tuple[int, ...], tuple[Dim, ...], int]:
    """The axes whose entries are taken by number, the shape of the numbers, and where the axes of these stand in the value."""
    node, x = operands.node, operands.tensor(0)
    axes: tuple[int, ...] = node.attrs.get("axes", (0,))
    numbers = [operands.tensor(i) for i in range(1, len(operands.inputs))]
    if len(axes) != len(numbers) or list(axes) != sorted({axis for axis in axes if 0 <= axis < len(x.shape)}):
        raise IRError(f"node '{node.name}' (take) takes entries of the axes {axes} of '{x}' by {len(numbers)} tensors")
    for index in numbers:
        if index.dtype not in ("i64", "i32"):
            raise IRError(f"node '{node.name}' (take) needs integers to take entries by, not '{index}'")
    shape: tuple[Dim, ...] = ()
    for index in numbers:
        rank = max(len(shape), len(index.shape))
        pairs = zip(*((1,) * (rank - len(own)) + own for own in (shape, index.shape)), strict=True)
        shape = tuple(broadcast_dims(operands, a, b) for a, b in pairs)
    apart = axes[-1] - axes[0] >= len(axes)  # then torch puts the axes of the numbers first
    return axes, shape, 0 if apart else axes[0]


def _infer_take(operands: Operands) -> Type:
    axes, shape, at = _taken(operands)
    x = operands.tensor(0)
    kept = [size for axis, size in enumerate(x.shape) if axis not in axes]
    return TensorType(x.dtype, (*kept[:at], *shape, *kept[at:]))


def _take_channels(rules: ChannelRules, operands: Operands) -> None:
    axes, shape, at = _taken(operands)
    for axis in axes:
        rules.freeze(rules.layout(0, axis), "its entries are taken by number")
    kept = [axis for axis in range(len(operands.tensor(0).shape)) if axis not in axes]
    for position, axis in enumerate(kept):
        rules.set(position + len(shape) * (position >= at), rules.layout(0, axis))
    for index in range(1, len(operands.inputs)):
        for axis in range(len(operands.tensor(index).shape)):
            if len(axes) == 1:
                rules.set(at + axis, rules.layout(index, axis))
            else:
                rules.freeze(rules.layout(index, axis), "entries are taken by several numbers")


def _infer_gather(operands: Operands) -> Type:
    x, index, dim = operands.tensor(0), operands.tensor(1), operands.node.attrs["dim"]
    fits = [
        a == b or (isinstance(a, int) and isinstance(b, int) and a <= b)
        for a, b in zip(index.shape, x.shape, strict=False)
    ]
    if len(x.shape) != len(index.shape) or not all(fit for i, fit in enumerate(fits) if i != dim % len(x.shape)):
        raise IRError(f"node '{operands.node.name}' (gather) takes entries of '{x}' by '{index}'")
    return TensorType(x.dtype, index.shape)


def _gather_channels(rules: ChannelRules, operands: Operands) -> None:
    """Beside the axis along which entries are taken channels go with those of the numbers."""
    x, index = operands.tensor(0).shape, operands.tensor(1).shape
    dim = operands.node.attrs["dim"] % len(x)
    for axis in range(len(x)):
        own, numbers = rules.layout(0, axis), rules.layout(1, axis)
        if axis == dim:
            rules.freeze(own, "its entries are gathered by number")
            rules.set(axis, numbers)
        elif x[axis] != index[axis]:  # the first entries, as many as there are numbers
            for layout in (own, numbers):
                rules.freeze(layout, "its first entries alone are gathered")
            rules.set(axis, numbers)
        else:
            rules.set(axis, rules.unify([own, numbers]))


def _emit_gather(emitter: Emitter, node: Node) -> fx.Node:
    x, index = (emitter.value(name) for name in node.inputs)
    return emitter.call(torch.gather, x, node.attrs["dim"], index)


def _gathered(operands: Operands) -> tuple[int, Dim]:
    shape = operands.tensor(0).shape
    return 1, shape[operands.node.attrs["dim"] % len(shape)]


register(
    OpSpec(
        "gather",
        _infer_gather,
        _gather_channels,
        _emit_gather,
        channelwise=True,
        linear=of_first,
        nonnegative=with_first,
        looked_up=_gathered,
        functions=dict.fromkeys(
            (torch.gather, "gather"), Call(signature("input dim index"), operands=("input", "index"))
        ),
    )
)


def _emit_take(emitter: Emitter, node: Node) -> fx.Node:
    x, *numbers = (emitter.value(name) for name in node.inputs)
    axes: tuple[int, ...] = node.attrs.get("axes", (0,))
    if axes == (0,):
        return emitter.call(operator.getitem, x, numbers[0])
    found = dict(zip(axes, numbers, strict=True))
    return emitter.call(operator.getitem, x, tuple(found.get(axis, slice(None)) for axis in range(axes[-1] + 1)))


register(
    OpSpec(
        "take",
        _infer_take,
        _take_channels,
        _emit_take,
        channelwise=True,
        linear=of_first,
        looked_up=lambda operands: (1, operands.tensor(0).shape[operands.node.attrs.get("axes", (0,))[0]]),
    )
)
