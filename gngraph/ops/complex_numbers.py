"""Pairs of real numbers as complex ones and back, as rotary positions turn them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gngraph.errors import IRError
from gngraph.ir import TensorType, Type
from gngraph.ir.types import dtype_name, dtype_of
from gngraph.ops.rules import emit_simple
from gngraph.ops.spec import Call, ChannelRules, Operands, OpSpec, signature
from gngraph.ops.table import register


def _dtype(function: Callable[..., Any], operands: Operands) -> str:
    """That of the numbers that `function` makes."""
    x = operands.tensor()
    try:
        return dtype_name(function(torch.empty((2,), dtype=dtype_of(x.dtype))).dtype)
    except RuntimeError:
        raise IRError(f"node '{operands.node.name}' ({operands.node.op}) cannot be computed of '{x}'") from None


def _infer_complex(operands: Operands) -> Type:
    x = operands.tensor()
    if x.shape[-1:] != (2,):
        raise IRError(f"node '{operands.node.name}' (view_as_complex) needs pairs of numbers, not '{x}'")
    return TensorType(_dtype(torch.view_as_complex, operands), x.shape[:-1])


def _complex_channels(rules: ChannelRules, operands: Operands) -> None:
    last = len(operands.tensor().shape) - 1
    rules.freeze(rules.layout(0, last), "its pairs are complex numbers")
    for axis in range(last):
        rules.set(axis, rules.layout(0, axis))


def _infer_real(operands: Operands) -> Type:
    x = operands.tensor()
    return TensorType(_dtype(torch.view_as_real, operands), (*x.shape, 2))


def _real_channels(rules: ChannelRules, operands: Operands) -> None:
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis, rules.layout(0, axis))


for _function, _infer, _channels in (
    (torch.view_as_complex, _infer_complex, _complex_channels),
    (torch.view_as_real, _infer_real, _real_channels),
):
    register(
        OpSpec(
            _function.__name__,
            _infer,
            _channels,
            emit_simple(None, _function),
            channelwise=True,
            linear=True,
            functions={_function: Call(signature("input"))},
        )
    )
