"""Ops that run along one axis and keep its entries' number, such as running sums: other axes keep their channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gngraph.ir import Node, TensorType, TupleType, Type
from gngraph.ops.dtypes import given
from gngraph.ops.rules import freeze_axes, same_type
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def _infer(function: Callable[..., Any]) -> Callable[[Operands], Type]:
    """One value of the shape of the input, or a tuple of them, of the dtypes that `function` gives."""

    def infer(operands: Operands) -> Type:
        found = given(function, operands, **{**operands.node.attrs, "dim": 0})
        types = tuple(TensorType(dtype, operands.tensor().shape) for dtype in found)
        return TupleType(types) if len(types) > 1 else types[0]

    return infer


def _channels(rules: ChannelRules, operands: Operands) -> None:
    dim = operands.node.attrs["dim"] % len(operands.tensor().shape)
    freeze_axes(rules, operands, {dim}, f"{operands.node.op} runs along it")


def _emit(function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    return lambda emitter, node: emitter.call(function, emitter.value(node.inputs[0]), **node.attrs)


for _name, _function, _text in (
    ("cumsum", torch.cumsum, "input dim"),
    ("cumprod", torch.cumprod, "input dim"),
    ("logcumsumexp", torch.logcumsumexp, "input dim"),
    ("cummax", torch.cummax, "input dim"),
    ("cummin", torch.cummin, "input dim"),
    ("sort", torch.sort, "input dim=-1 descending=False"),
    ("argsort", torch.argsort, "input dim=-1 descending=False"),
):
    register(
        OpSpec(
            _name,
            _infer(_function),
            _channels,
            _emit(_function),
            channelwise=True,
            linear=_name == "cumsum",
            nonnegative=with_first if _name in ("cumsum", "cumprod") else False,
            functions=dict.fromkeys((_function, _name), Call(signature(_text))),
        )
    )


def _triangle_channels(rules: ChannelRules, operands: Operands) -> None:
    rank = len(operands.tensor().shape)
    freeze_axes(rules, operands, {rank - 2, rank - 1}, f"{operands.node.op} takes a triangle of it")


for _triangle in (torch.tril, torch.triu):
    register(
        OpSpec(
            _triangle.__name__,
            same_type,
            _triangle_channels,
            _emit(_triangle),
            channelwise=True,
            linear=True,
            nonnegative=with_first,
            functions=dict.fromkeys((_triangle, _triangle.__name__), Call(signature("input diagonal=0"))),
        )
    )
