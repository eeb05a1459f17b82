"""Ops that move whole axes: permute, transpose, unsqueeze, squeeze."""

from __future__ import annotations

import torch
from torch import fx

from gngraph.ir import Node, TensorType, Type
from gngraph.ops.rules import emit_simple
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def _order(operands: Operands) -> tuple[int, ...]:
    rank, attrs = len(operands.tensor().shape), operands.node.attrs
    if operands.node.op == "permute":
        return tuple(d % rank for d in attrs["dims"])
    order = list(range(rank))
    a, b = attrs["dim0"] % rank, attrs["dim1"] % rank
    order[a], order[b] = b, a
    return tuple(order)


def _infer_permute(operands: Operands) -> Type:
    x = operands.tensor()
    return TensorType(x.dtype, tuple(x.shape[d] for d in _order(operands)))


def _permute_channels(rules: ChannelRules, operands: Operands) -> None:
    for axis, source in enumerate(_order(operands)):
        rules.set(axis, rules.layout(0, source))


def _emit_permute(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.method("permute", emitter.value(node.inputs[0]), *node.attrs["dims"])


register(
    OpSpec(
        "permute",
        _infer_permute,
        _permute_channels,
        _emit_permute,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
    )
)
register(
    OpSpec(
        "transpose",
        _infer_permute,
        _permute_channels,
        emit_simple(None, torch.transpose),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        functions=dict.fromkeys(
            (torch.transpose, torch.swapaxes, torch.swapdims, "transpose", "swapaxes", "swapdims"),
            Call(signature("input dim0 dim1")),
        ),
    )
)


def _axis(operands: Operands, extra: int) -> int:
    return int(operands.node.attrs["dim"]) % (len(operands.tensor().shape) + extra)


def _infer_unsqueeze(operands: Operands) -> Type:
    x, dim = operands.tensor(), _axis(operands, 1)
    return TensorType(x.dtype, (*x.shape[:dim], 1, *x.shape[dim:]))


def _unsqueeze_channels(rules: ChannelRules, operands: Operands) -> None:
    dim = _axis(operands, 1)
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis + (axis >= dim), rules.layout(0, axis))


register(
    OpSpec(
        "unsqueeze",
        _infer_unsqueeze,
        _unsqueeze_channels,
        emit_simple(None, torch.unsqueeze),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        functions=dict.fromkeys((torch.unsqueeze, "unsqueeze"), Call(signature("input dim"))),
    )
)


def squeezed_whole(x: TensorType) -> tuple[int, ...]:
    """The axes that `x.squeeze()` takes away, of several samples."""
    return tuple(axis for axis, size in enumerate(x.shape) if size == 1)


def _squeezed(operands: Operands) -> tuple[list[int], list[int]]:
    """The axes that are taken away where they have a single entry, and those that stay."""
    dim, shape = operands.node.attrs["dim"], operands.tensor().shape
    named = [int(axis) % len(shape) for axis in (dim if isinstance(dim, tuple) else (dim,))]
    return named, [axis for axis, size in enumerate(shape) if axis not in named or size != 1]


def _infer_squeeze(operands: Operands) -> Type:
    x = operands.tensor()
    return TensorType(x.dtype, tuple(x.shape[axis] for axis in _squeezed(operands)[1]))


def _squeeze_channels(rules: ChannelRules, operands: Operands) -> None:
    named, kept = _squeezed(operands)
    for axis in named:
        rules.freeze(rules.layout(0, axis), "squeeze depends on its size")
    for place, axis in enumerate(kept):
        rules.set(place, rules.layout(0, axis))


register(
    OpSpec(
        "squeeze",
        _infer_squeeze,
        _squeeze_channels,
        emit_simple(None, torch.squeeze),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        functions=dict.fromkeys((torch.squeeze, "squeeze"), Call(signature("input dim"))),
    )
)
