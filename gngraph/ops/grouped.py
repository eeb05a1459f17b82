"""Products of rows with the weights of experts: `torch._grouped_mm` of rows that lie expert by expert, each with its own weight.

torch has them for rows of whole 16 bytes, and not in float64. Rows of other widths are filled up with zeros, which add nothing; in
float64, in which rewrites are proved, every expert multiplies all rows, and those of the others count as zero.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Node, TensorType, Type
from gngraph.ir.types import dtype_of
from gngraph.ops.spec import ChannelRules, Emitter, Factor, Operands, OpSpec
from gngraph.ops.starts import of_layer, within
from gngraph.ops.table import register
from gngraph.ops.traits import of_first

GROUPED = "grouped_linear"
"""Has attributes `transposed`, whether a weight is [expert, out, in], and `casts`, whether rows get its dtype first."""

_STEP = 16
"""Bytes of which torch's kernel wants whole multiples in a row."""


def _axes(node: Node) -> tuple[int, int]:
    """The axes of the weight that read and write."""
    return (2, 1) if node.attrs["transposed"] else (1, 2)


def _infer(operands: Operands) -> Type:
    node, x, ends, weight = operands.node, operands.tensor(0), operands.tensor(1), operands.params["weight"]
    if len(x.shape) != 2 or len(weight.shape) != 3 or ends.shape != weight.shape[:1]:
        raise IRError(f"node '{node.name}' ({node.op}) multiplies rows by the weights of experts, with an end for each")
    reads, writes = _axes(node)
    if x.shape[1] != weight.shape[reads]:
        raise IRError(f"node '{node.name}' ({node.op}) reads {x.shape[1]} features, but is for {weight.shape[reads]}")
    return TensorType(weight.dtype if node.attrs["casts"] else x.dtype, (x.shape[0], weight.shape[writes]))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    reads, writes = _axes(operands.node)
    rules.consume("weight", reads, rules.layout(0, 1))
    rules.set(1, rules.produce("weight", writes))


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    x, ends = (emitter.value(name) for name in node.inputs)
    param, transposed = node.params["weight"], node.attrs["transposed"]
    weight, sizes = emitter.param(param), [emitter.shape(param)[axis] for axis in _axes(node)]
    if node.attrs["casts"]:
        x = emitter.method("to", x, emitter.call(getattr, weight, "dtype"))
    assert isinstance(node.type, TensorType)
    dtype: torch.dtype = dtype_of(node.type.dtype)
    if dtype is torch.float64:
        return _plain(emitter, x, emitter.method("transpose", weight, -2, -1) if transposed else weight, ends)
    missing = [-size % max(1, _STEP // dtype.itemsize) for size in sizes]
    if any(missing):
        reads, writes = missing
        x = emitter.call(F.pad, x, (0, reads))
        weight = emitter.call(F.pad, weight, (0, reads, 0, writes) if transposed else (0, writes, 0, reads))
    if transposed:
        weight = emitter.method("transpose", weight, -2, -1)
    y = emitter.call(torch._grouped_mm, x, weight, offs=ends)
    return emitter.call(operator.getitem, y, (slice(None), slice(None, sizes[1]))) if missing[1] else y


def _plain(emitter: Emitter, x: fx.Node, weight: fx.Node, ends: fx.Node) -> fx.Node:
    """The same by plain products: a row counts for the expert between whose ends its number lies."""
    device = emitter.call(getattr, x, "device")
    rows = emitter.call(torch.arange, emitter.method("size", x, 0), device=device)
    behind = emitter.method("unsqueeze", ends, 1)
    first = emitter.call(F.pad, emitter.call(operator.getitem, ends, slice(None, -1)), (1, 0))
    own = emitter.call(
        operator.and_,
        emitter.call(operator.ge, rows, emitter.method("unsqueeze", first, 1)),
        emitter.call(operator.lt, rows, behind),
    )
    masked = emitter.call(torch.where, emitter.method("unsqueeze", own, 2), x, 0.0)
    return emitter.method("sum", emitter.call(torch.bmm, masked, weight), 0)


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    return (((0, 0), (0, 1), ("weight", _axes(operands.node)[1])),)


# import makes it of calls of torch's function
register(
    OpSpec(
        GROUPED,
        _infer,
        _channels,
        _emit,
        products=_products,
        linear=of_first,
        channel_axis=-1,
        of_part=True,
        starts=of_layer(within(lambda node, weight: weight.shape[_axes(node)[0]])),
    )
)
