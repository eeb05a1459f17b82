"""Products of matrices over samples and heads that are added to a mask, as `torch.baddbmm` gives them over samples times heads.

Where heads are taken apart again behind it, the two are one op. That is how torch's attention module computes its weights where
it is given a mask: the sum starts with the mask, so that adding it behind the product would differ in the last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, TensorType, Type
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import ChannelRules, Emitter, Factor, Layout, Operands, OpSpec, register

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


def _infer(operands: Operands) -> Type:
    node, (mask, a, b) = operands.node, (operands.tensor(i) for i in range(3))
    if not len(a.shape) == len(b.shape) == 4 or (*a.shape[:2], a.shape[3]) != b.shape[:3]:
        raise IRError(f"node '{node.name}' ({node.op}) multiplies matrices that lie in two axes")
    shape = (*a.shape[:3], b.shape[3])
    leads: tuple[tuple[Dim, ...], ...] = ((a.shape[0], 1), a.shape[:2]) if node.attrs["spread"] else ((1,),)
    lead, rows = mask.shape[: len(leads[0])], mask.shape[len(leads[0]) :]
    if lead not in leads or rows not in (shape[2:], (1, shape[3])):
        raise IRError(f"node '{node.name}' ({node.op}) adds a mask of {mask.shape} to products of {shape}")
    return TensorType(a.dtype, shape)


def _channels(rules: ChannelRules, operands: Operands) -> None:
    """Heads and samples go along, and so do rows and columns; what is summed over one side writes and the other reads."""
    mask = operands.tensor(0).shape
    for axis, factors in enumerate(((1, 2), (1, 2), (1,), (2,))):
        layouts: list[Layout | None] = [rules.layout(i, axis) for i in factors]
        own = len(mask) - 4 + axis
        if own > 0 and (mask[own] != 1 or (axis > 1 and operands.node.shape[axis] == 1)):
            layouts.append(rules.layout(0, own))
        elif own >= 0:
            rules.freeze(rules.layout(0, own), "its single channel is broadcast")
        rules.set(axis, rules.unify(layouts))
    rules.contract([(1, 3), (2, 2)], f"{operands.node.op} sums over it")


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    (mask, a, b), heads = (emitter.value(name) for name in node.inputs), node.shape[1]
    if node.attrs["spread"]:
        mask = emitter.method("flatten", emitter.method("expand", mask, -1, heads, -1, -1), 0, 1)
    products = emitter.call(torch.baddbmm, mask, *(emitter.method("flatten", value, 0, 1) for value in (a, b)))
    return emitter.method("unflatten", products, 0, (-1, heads))


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    return ((*sizes_of(operands, 1, range(4)), *sizes_of(operands, 2, (3,))),)


def _infer_baddbmm(operands: Operands) -> Type:
    node, (added, a, b) = operands.node, (operands.tensor(i) for i in range(3))
    if not len(a.shape) == len(b.shape) == 3 or (a.shape[0], a.shape[2]) != b.shape[:2]:
        raise IRError(f"node '{node.name}' ({node.op}) multiplies '{a}' and '{b}'")
    shape = (*a.shape[:2], b.shape[2])
    if len(added.shape) > 3 or any(x not in (1, y) for x, y in zip(added.shape[::-1], shape[::-1], strict=False)):
        raise IRError(f"node '{node.name}' ({node.op}) adds '{added}' to products of {shape}")
    return TensorType(a.dtype, shape)


def _baddbmm_channels(rules: ChannelRules, operands: Operands) -> None:
    """Samples and heads, rows and columns go along; what is summed over one side writes and the other reads."""
    added = operands.tensor(0).shape
    for axis, factors in enumerate(((1, 2), (1,), (2,))):
        layouts: list[Layout | None] = [rules.layout(i, axis) for i in factors]
        own = len(added) - 3 + axis
        if own >= 0 and added[own] == operands.tensor(factors[0]).shape[axis]:
            layouts.append(rules.layout(0, own))
        elif own >= 0:
            rules.freeze(rules.layout(0, own), "its single channel is broadcast")
        rules.set(axis, rules.unify(layouts))
    rules.contract([(1, 2), (2, 1)], f"{operands.node.op} sums over it")


def _emit_baddbmm(emitter: Emitter, node: Node) -> fx.Node:
    options = {key: emitter.resolve(node.attrs[key]) for key in ("beta", "alpha")}
    return emitter.call(torch.baddbmm, *(emitter.value(name) for name in node.inputs), **options)


# import reads its calls, for `alpha` is another one elsewhere
register(
    OpSpec(
        "baddbmm",
        _infer_baddbmm,
        _baddbmm_channels,
        _emit_baddbmm,
        products=lambda operands: ((*sizes_of(operands, 1, range(3)), *sizes_of(operands, 2, (2,))),),
        linear=lambda node, positions: not positions >= {1, 2},
    )
)


# import makes it of the calls of `added_products`
register(
    OpSpec(
        ADDED_PRODUCTS,
        _infer,
        _channels,
        _emit,
        products=_products,
        linear=lambda node, positions: not positions >= {1, 2},
    )
)
