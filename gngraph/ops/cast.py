"""Casts to another dtype or device, in their many spellings: entry by entry, whatever the widths are."""

from __future__ import annotations

import torch

from gngraph.ir import Node, TensorType, Type
from gngraph.ir.types import dtype_of
from gngraph.ops.foreign import emit_one_of, require_target
from gngraph.ops.rules import all_axes
from gngraph.ops.spec import Operands, OpSpec
from gngraph.ops.table import register
from gngraph.ops.traits import with_first

CASTS = (
    ".to",
    ".type",
    ".float",
    ".double",
    ".half",
    ".bfloat16",
    ".long",
    ".int",
    ".bool",
    ".type_as",
    ".cpu",
    ".cuda",
)
"""Methods, with a dot in front, that give the same entries in another dtype or on another device."""


def _infer(operands: Operands) -> Type:
    require_target(operands.node, CASTS)
    return TensorType(operands.node.attrs["dtype"].name, operands.tensor().shape)


def _linear(node: Node, positions: frozenset[int]) -> bool:
    """Of real numbers, to rounding; not to integers, or truth values."""
    dtype: torch.dtype = dtype_of(node.attrs["dtype"].name)
    return positions <= {0} and dtype.is_floating_point


# import makes it of calls that would be foreign
register(OpSpec("cast", _infer, all_axes, emit_one_of(CASTS), channelwise=True, linear=_linear, nonnegative=with_first))
