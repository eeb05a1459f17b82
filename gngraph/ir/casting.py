"""Nodes in another floating-point precision: what their attributes and types say of dtypes."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import torch

from gngraph.ir.types import (
    Attr,
    DType,
    Items,
    Listed,
    Node,
    Slice,
    TensorType,
    TupleType,
    Type,
    dtype_name,
    dtype_of,
)

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
"""The complex dtype that goes with a real one."""
_CASTS = {torch.bfloat16: ".bfloat16", torch.float64: ".double", torch.float32: ".float", torch.float16: ".half"}
"""Targets of foreign ops that cast by their name."""
_COMPLEX_CASTS = {".cdouble", ".cfloat"}
_OLD_NAMES = {"torch.DoubleTensor", "torch.FloatTensor", "torch.HalfTensor", "torch.BFloat16Tensor"}
"""What `Tensor.type` takes for a dtype."""


def cast(dtype: torch.dtype, to: torch.dtype) -> torch.dtype:
    """What becomes of `dtype` in a network whose floating-point numbers become `to`: integers and flags stay.

    >>> cast(torch.float32, torch.float64), cast(torch.complex64, torch.float64), cast(torch.int64, torch.float64)
    (torch.float64, torch.complex128, torch.int64)
    """
    if dtype.is_floating_point:
        return to
    return _COMPLEX.get(to, dtype) if dtype.is_complex else dtype


def node_as(node: Node, to: torch.dtype) -> Node:
    """A node whose floating-point numbers become `to`: those that it casts to or makes, and its type."""
    attrs = {key: _attr(value, to) for key, value in node.attrs.items()}
    target = attrs.get("target")
    if target in _CASTS.values() and to in _CASTS:
        attrs["target"] = _CASTS[to]
    elif target in _COMPLEX_CASTS and to in _COMPLEX:
        attrs["target"] = ".cdouble" if to is torch.float64 else ".cfloat"
    return replace(node, attrs=MappingProxyType(attrs), type=_type(node.type, to))


def _type(type_: Type, to: torch.dtype) -> Type:
    if isinstance(type_, TensorType):
        return replace(type_, dtype=dtype_name(cast(dtype_of(type_.dtype), to)))
    if isinstance(type_, TupleType):
        return TupleType(tuple(_type(item, to) for item in type_.items))
    return type_


def _attr(attr: Attr, to: torch.dtype) -> Attr:
    if isinstance(attr, DType):
        return DType(dtype_name(cast(dtype_of(attr.name), to)))
    if isinstance(attr, str) and attr in _OLD_NAMES:
        return DType(dtype_name(to))
    if isinstance(attr, tuple):
        return tuple(_attr(item, to) for item in attr)
    if isinstance(attr, Listed):
        return Listed(tuple(_attr(item, to) for item in attr.items))
    if isinstance(attr, Slice):
        return Slice(_attr(attr.start, to), _attr(attr.stop, to), _attr(attr.step, to))
    if isinstance(attr, Items):
        return Items(tuple((key, _attr(value, to)) for key, value in attr.pairs))
    return attr
