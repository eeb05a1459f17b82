"""Linear layers that multiply by a part of the rows of their weight, as packed projections of queries, keys and values are read.

Several of them may share a weight, or a bias, each with rows of its own: what they read is then one space, for the columns are.
"""

from __future__ import annotations

import operator

from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, TensorType, Type
from gngraph.ops.linear import linear_positions
from gngraph.ops.spec import ChannelRules, Emitter, Factor, Layout, Operands, OpSpec
from gngraph.ops.starts import of_layer, within
from gngraph.ops.table import register
from gngraph.ops.traits import VALUE

PART_LINEAR = "part_linear"
"""Has attributes `rows` and `bias_rows`: the first row that is read and the one behind the last, or None where all are."""

_ROWS = {"weight": "rows", "bias": "bias_rows"}
"""Role of a parameter -> the attribute that says which rows of it are read."""


def _count(operands: Operands, role: str) -> Dim:
    """How many rows of a parameter are read."""
    node, whole = operands.node, operands.params[role].shape[0]
    bounds = node.attrs[_ROWS[role]]
    if bounds is None:
        return whole
    start, stop = bounds
    if not 0 <= start < stop <= int(whole):
        raise IRError(f"node '{node.name}' ({node.op}) reads the rows {start} to {stop} of '{role}', which has {whole}")
    return int(stop) - int(start)


def _infer(operands: Operands) -> Type:
    node, x, out = operands.node, operands.tensor(), _count(operands, "weight")
    if x.shape[-1] != operands.params["weight"].shape[1]:
        raise IRError(
            f"node '{node.name}' ({node.op}) reads {x.shape[-1]} features, but its weight is for "
            f"{operands.params['weight'].shape[1]}"
        )
    if "bias" in operands.params and _count(operands, "bias") != out:
        raise IRError(f"node '{node.name}' ({node.op}) writes {out} features, but has a bias for another number")
    return TensorType(x.dtype, (*x.shape[:-1], out))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    last = len(operands.tensor().shape) - 1
    for axis in range(last):
        rules.set(axis, rules.layout(0, axis))
    rules.consume("weight", 1, rules.layout(0, last))
    rules.set(last, rules.unify([_part(rules, operands, role) for role in _ROWS if role in operands.params]))


def _part(rules: ChannelRules, operands: Operands, role: str) -> Layout | None:
    """The layout of the rows of a parameter that are read."""
    whole, attr = rules.produce(role, 0), _ROWS[role]
    if operands.node.attrs[attr] is None:
        return whole
    (start, stop), length = operands.node.attrs[attr], sum(segment.length for segment in whole)
    pieces = rules.divide(whole, [start, stop - start, length - stop], "a part of its rows cuts through its channels")
    before, piece, _ = pieces
    if before is None or piece is None:
        return None
    rules.measure((attr, 0), before)
    rules.measure((attr, 1), before + piece)
    return piece


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    parts = []
    for role, attr in _ROWS.items():
        part = emitter.param(node.params[role]) if role in node.params else None
        if part is not None and node.attrs[attr] is not None:
            part = emitter.call(operator.getitem, part, slice(*node.attrs[attr]))
        parts.append(part)
    return emitter.call(F.linear, emitter.value(node.inputs[0]), *parts)


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    last = len(operands.tensor().shape) - 1
    return ((*linear_positions(operands, operands.node.type), (0, last), (VALUE, last)),)


register(
    OpSpec(
        PART_LINEAR,
        _infer,
        _channels,
        _emit,
        products=_products,
        linear=True,
        channel_axis=-1,
        of_part=True,
        starts=of_layer(within(lambda node, weight: weight.shape[1])),
    )
)
