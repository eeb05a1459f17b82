"""Products of matrices over samples and heads that are added to a mask, as `torch.baddbmm` gives them over samples times heads.

Where heads are taken apart again behind it, the two are one op. That is how torch's attention module computes its weights where
it is given a mask: the sum starts with the mask, so that adding it behind the product would differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, TensorType, Type
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import ChannelRules, Emitter, Factor, Layout, Operands, OpSpec
from gngraph.ops.table import register

ADDED_PRODUCTS = "added_products"
"""Has the attribute `spread`: whether the mask is [samples, heads or 1, ...], for heads of a sample; else [1, ...], for all."""


def added_products(mask: Any, a: Any, b: Any, heads: int, spread: bool) -> Any:
    """a @ b + mask, by the calls that import reads as one op.

    Args:
        mask: see `ADDED_PRODUCTS`; it is broadcast along rows.
        a, b: factors, [samples, heads, ...].
        heads: how many there are.
        spread: see `ADDED_PRODUCTS`.
    """
    mask = mask.expand(-1, heads, -1, -1).flatten(0, 1) if spread else mask
    products: Any = torch.baddbmm(mask, a.flatten(0, 1), b.flatten(0, 1))
    return products.unflatten(0, (-1, heads))


def _product_shape(operands: Operands, rank: int) -> tuple[Dim, ...]:
    """Shape of the product of the two factors, matrices that lie in the last two of `rank` axes."""
    node, a, b = operands.node, operands.tensor(1), operands.tensor(2)
    if not len(a.shape) == len(b.shape) == rank or (*a.shape[:-2], a.shape[-1]) != b.shape[:-1]:
        raise IRError(f"node '{node.name}' ({node.op}) multiplies '{a}' and '{b}'")
    return (*a.shape[:-1], b.shape[-1])


def _product_channels(rules: ChannelRules, operands: Operands, follows: Sequence[bool]) -> None:
    """Samples and heads go along, and so do rows and columns; what is summed over one side writes and the other reads.

    Args:
        rules: of the analysis under way.
        operands: the node.
        follows: whether what is added has the channels of the product along each axis of samples and heads; else its single
            one is broadcast.
    """
    added, shape = operands.tensor(0).shape, operands.node.shape
    rows, columns = len(shape) - 2, len(shape) - 1
    for axis in range(len(shape)):
        factors = {rows: (1,), columns: (2,)}.get(axis, (1, 2))
        layouts: list[Layout | None] = [rules.layout(i, axis) for i in factors]
        own = axis - (len(shape) - len(added))
        if own >= 0 and (follows[axis] if axis < rows else added[own] == shape[axis]):
            layouts.append(rules.layout(0, own))
        elif own >= 0:
            rules.freeze(rules.layout(0, own), "its single channel is broadcast")
        rules.set(axis, rules.unify(layouts))
    rules.contract([(1, columns), (2, rows)], f"{operands.node.op} sums over it")


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    rank = len(operands.tensor(1).shape)
    return ((*sizes_of(operands, 1, range(rank)), *sizes_of(operands, 2, (rank - 1,))),)


def _but_in_both(node: Node, positions: frozenset[int]) -> bool:
    """Linear in what is added and one of the factors together."""
    return not positions >= {1, 2}


# --- over samples and heads


def _infer(operands: Operands) -> Type:
    node, (mask, a) = operands.node, (operands.tensor(i) for i in range(2))
    shape = _product_shape(operands, 4)
    leads: tuple[tuple[Dim, ...], ...] = ((a.shape[0], 1), a.shape[:2]) if node.attrs["spread"] else ((1,),)
    lead, rows = mask.shape[: len(leads[0])], mask.shape[len(leads[0]) :]
    if lead not in leads or rows not in (shape[2:], (1, shape[3])):
        raise IRError(f"node '{node.name}' ({node.op}) adds a mask of {mask.shape} to products of {shape}")
    return TensorType(a.dtype, shape)


def _channels(rules: ChannelRules, operands: Operands) -> None:
    _product_channels(rules, operands, (False, operands.node.attrs["spread"] and operands.tensor().shape[1] != 1))


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    (mask, a, b), heads = (emitter.value(name) for name in node.inputs), node.shape[1]
    if node.attrs["spread"]:
        mask = emitter.method("flatten", emitter.method("expand", mask, -1, heads, -1, -1), 0, 1)
    products = emitter.call(torch.baddbmm, mask, *(emitter.method("flatten", value, 0, 1) for value in (a, b)))
    return emitter.method("unflatten", products, 0, (-1, heads))


# --- as torch has them


def _infer_baddbmm(operands: Operands) -> Type:
    node, added = operands.node, operands.tensor()
    shape = _product_shape(operands, 3)
    if len(added.shape) > 3 or any(x not in (1, y) for x, y in zip(added.shape[::-1], shape[::-1], strict=False)):
        raise IRError(f"node '{node.name}' ({node.op}) adds '{added}' to products of {shape}")
    return TensorType(operands.tensor(1).dtype, shape)


def _baddbmm_channels(rules: ChannelRules, operands: Operands) -> None:
    _product_channels(rules, operands, (operands.tensor().shape[:1] == operands.node.shape[:1],))


def _emit_baddbmm(emitter: Emitter, node: Node) -> fx.Node:
    options = {key: emitter.resolve(node.attrs[key]) for key in ("beta", "alpha")}
    return emitter.call(torch.baddbmm, *(emitter.value(name) for name in node.inputs), **options)


# import makes the first of the calls of `added_products`, and reads those of the other, for `alpha` is another one elsewhere
for _name, _type, _rule, _lowered in (
    (ADDED_PRODUCTS, _infer, _channels, _emit),
    ("baddbmm", _infer_baddbmm, _baddbmm_channels, _emit_baddbmm),
):
    register(OpSpec(_name, _type, _rule, _lowered, products=_products, linear=_but_in_both))
