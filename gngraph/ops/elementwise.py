"""Further element-wise functions of one value and of two, and of truth values: each entry by itself, whatever its function is."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from gngraph.errors import IRError
from gngraph.ir import Flag, TensorType, Type
from gngraph.ir.types import dtype_name, dtype_of
from gngraph.ops.dtypes import given
from gngraph.ops.merge import arithmetic_axes, emit_arithmetic
from gngraph.ops.rules import all_axes, broadcast_shape, emit_simple
from gngraph.ops.spec import Call, Operands, OpSpec, signature
from gngraph.ops.table import register

_PLAIN = """
acos acosh asin asinh atan atanh ceil cosh erfc erfinv exp2 floor frac isfinite isinf isnan log10 log2 logical_not round sinc
sinh tan trunc
"""
"""Functions of one value without further arguments, and methods of the same names."""

# name, function, further functions and methods, arguments besides the input
_OF_ONE: list[tuple[str, Callable[..., Any], tuple[Any, ...], str]] = [
    *((name, getattr(torch, name), (name,), "") for name in _PLAIN.split()),
    ("logit", torch.logit, ("logit",), "eps=None"),
    ("nan_to_num", torch.nan_to_num, ("nan_to_num",), "nan=0.0 posinf=None neginf=None"),
    ("clamp_min", torch.clamp_min, ("clamp_min",), "min"),
    ("clamp_max", torch.clamp_max, ("clamp_max",), "max"),
    ("invert", torch.bitwise_not, (operator.invert, "bitwise_not"), ""),
    ("expit", torch.special.expit, (), ""),
]


def _infer_of_one(function: Callable[..., Any]) -> Callable[[Operands], Type]:
    """The dtype is that which `function` gives; torch is asked."""
    return lambda operands: TensorType(given(function, operands, **operands.node.attrs)[0], operands.tensor().shape)


_NONNEGATIVE = ("acosh", "erfc", "exp2", "expit")
for _name, _function, _others, _options in _OF_ONE:
    register(
        OpSpec(
            _name,
            _infer_of_one(_function),
            all_axes,
            emit_simple(None, _function),
            channelwise=True,
            nonnegative=_name in _NONNEGATIVE,
            functions=dict.fromkeys((_function, *_others), Call(signature(f"input {_options}"))),
        )
    )


def _infer_of_two(function: Callable[..., Any]) -> Callable[[Operands], Type]:
    """The dtype is that which `function` gives for numbers of these kinds; torch is asked."""

    def infer(operands: Operands) -> Type:
        node, shape = operands.node, broadcast_shape(operands)
        values = iter(
            torch.ones((1,) * bool(t.shape), dtype=dtype_of(t.dtype)) for t in map(operands.tensor, operands.values())
        )
        literals = [node.attrs.get(f"literal{i}") for i in (0, 1)]
        if any(isinstance(literal, Flag) for literal in literals):
            raise IRError(f"node '{node.name}' ({node.op}) takes another number in train mode than in eval mode")
        try:
            found = function(*(next(values) if literal is None else 1 for literal in literals))
        except (RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise IRError(f"node '{node.name}' ({node.op}) cannot be computed: {reason}") from None
        return TensorType(dtype_name(found.dtype), shape)

    return infer


_NAMED = "atan2 copysign fmax fmin fmod heaviside hypot logaddexp logaddexp2 logical_and logical_or logical_xor xlogy"
"""Functions of two values without an operator, and methods of the same names."""

_OF_TWO: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("bitwise_and", operator.and_, (operator.iand, torch.bitwise_and, "bitwise_and", "__and__")),
    ("bitwise_or", operator.or_, (operator.ior, torch.bitwise_or, "bitwise_or", "__or__")),
    ("bitwise_xor", operator.xor, (operator.ixor, torch.bitwise_xor, "bitwise_xor", "__xor__")),
    ("remainder", operator.mod, (torch.remainder, "remainder")),
    ("floor_divide", operator.floordiv, (torch.floor_divide, "floor_divide")),
    *((name, getattr(torch, name), (name,)) for name in _NAMED.split()),
]
for _name, _function, _others in _OF_TWO:
    register(
        OpSpec(
            _name,
            _infer_of_two(_function),
            arithmetic_axes,
            emit_arithmetic(_function),
            channelwise=True,
            functions=dict.fromkeys((_function, *_others), Call(signature("a b"), operands=("a", "b"))),
        )
    )
