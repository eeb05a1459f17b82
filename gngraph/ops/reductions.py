"""Ops that reduce whole axes to one number: statistics, extrema, norms.

Means, sums, variances, deviations, p-norms and extrema of one axis count whichever channels there are; what others reduce over
is frozen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, TensorType, TupleType, Type
from gngraph.ops.dtypes import given
from gngraph.ops.rules import set_each
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import lookup, register
from gngraph.ops.traits import ChannelStatistics, with_first


def reduced_axes(operands: Operands) -> tuple[int, ...]:
    """The axes that the node's `dim` names, sorted; all of them where it is None or empty."""
    rank, dim = len(operands.tensor().shape), operands.node.attrs["dim"]
    dims = range(rank) if dim in (None, ()) else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(int(d) % rank for d in dims))


def _reduced_shape(operands: Operands) -> tuple[Dim, ...]:
    shape, dims = operands.tensor().shape, reduced_axes(operands)
    if operands.node.attrs.get("dtype") is not None:
        raise IRError(f"node '{operands.node.name}' ({operands.node.op}) gives another dtype than it reads")
    if operands.node.attrs.get("keepdim"):
        return tuple(1 if i in dims else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in dims)


def _infer(function: Callable[..., Any], optional: tuple[str, ...]) -> Callable[[Operands], Type]:
    """One reduced value, or a tuple of them, of the dtypes that `function` gives."""

    def infer(operands: Operands) -> Type:
        shape = _reduced_shape(operands)
        types = tuple(
            TensorType(dtype, shape) for dtype in given(function, operands, **_options(operands.node, optional))
        )
        return TupleType(types) if len(types) > 1 else types[0]

    return infer


def _channels(rules: ChannelRules, operands: Operands) -> None:
    dims, keep = reduced_axes(operands), bool(operands.node.attrs.get("keepdim"))
    op = operands.node.op
    statistics = lookup(op).counts
    sized = all(isinstance(operands.tensor().shape[axis], int) for axis in dims)
    alone = op in SUMS and sized and sum(rules.layout(0, axis) is not None for axis in dims) == 1
    counts = statistics is not None and 0 not in dims  # over samples there is no statistic of one
    if statistics is not None and statistics.order:
        counts = counts and statistics.order_of(operands.node) is not None
    if statistics is not None and statistics.extremum:
        segments = [segment for axis in dims for segment in rules.layout(0, axis) or ()]
        single = len({segment.var for segment in segments}) == sum(segment.inner for segment in segments)
        counts = counts and len(dims) == 1 and single
    position = 0
    for axis in range(len(operands.tensor().shape)):
        if axis in dims:
            reason = f"{op} reduces over it"
            if alone and rules.sum_factors(axis, reason, counts=counts):
                pass
            elif counts and isinstance(operands.tensor().shape[axis], int):
                rules.count(axis)
            else:
                rules.freeze(rules.layout(0, axis), reason)
            position += keep
        else:
            set_each(rules, operands, position, rules.layout(0, axis))
            position += 1


def with_number(node: Node, entries: int, name: str) -> tuple[Node, Node]:
    """A mean as a sum, called `name`, that is divided by the number of entries that the mean was taken over.

    Args:
        node: a mean.
        entries: how many.
        name: of the sum.
    """
    summed = replace(node, name=name, op="sum", module=None)
    return summed, Node(node.name, "div", (name,), {}, {"literal1": entries}, scope=node.scope, type=node.type)


def _options(node: Node, optional: tuple[str, ...]) -> dict[str, Attr]:
    """The attributes as arguments, without those of the `optional` ones that are None."""
    attrs = {name: value for name, value in node.attrs.items() if value is not None or name not in optional}
    if "unbiased" in attrs:  # an older spelling of the correction
        attrs.setdefault("correction", int(attrs.pop("unbiased")))
    return attrs


def _emit(function: Callable[..., Any], optional: tuple[str, ...]) -> Callable[[Emitter, Node], fx.Node]:
    return lambda emitter, node: emitter.call(function, emitter.value(node.inputs[0]), **_options(node, optional))


SUMS = ("sum", "mean")
"""Ops that add up what they reduce over."""

_PLAIN = "input dim=None keepdim=False"
_SPREAD = "input dim=None unbiased=True keepdim=False correction=None"
_NORM = "input p=fro dim=None keepdim=False out=None dtype=None"
_REDUCTIONS: list[tuple[str, Callable[..., Any], tuple[Callable[..., Any] | str, ...], str, tuple[str, ...]]] = [
    ("mean", torch.mean, ("mean",), _PLAIN, ()),
    ("sum", torch.sum, ("sum",), _PLAIN, ()),
    ("amax", torch.amax, ("amax",), _PLAIN, ("dim",)),
    ("amin", torch.amin, ("amin",), _PLAIN, ("dim",)),
    ("var", torch.var, ("var",), _SPREAD, ("correction",)),
    ("std", torch.std, ("std",), _SPREAD, ("correction",)),
    ("norm", torch.norm, ("norm",), _NORM, ("out", "dtype")),
    ("vector_norm", torch.linalg.vector_norm, (), "input ord=2 dim=None keepdim=False", ()),
    ("logsumexp", torch.logsumexp, ("logsumexp",), "input dim keepdim=False", ()),
    ("prod", torch.prod, ("prod",), "input dim keepdim=False", ()),
    ("any", torch.any, ("any",), _PLAIN, ("dim",)),
    ("all", torch.all, ("all",), _PLAIN, ("dim",)),
    ("argmax", torch.argmax, ("argmax",), _PLAIN, ()),
    ("argmin", torch.argmin, ("argmin",), _PLAIN, ()),
    # two values each
    ("max", torch.max, ("max",), "input dim keepdim=False", ()),
    ("min", torch.min, ("min",), "input dim keepdim=False", ()),
    ("median", torch.median, ("median",), "input dim keepdim=False", ()),
    ("var_mean", torch.var_mean, (), _SPREAD, ("correction",)),
    ("std_mean", torch.std_mean, (), _SPREAD, ("correction",)),
]
VALUES_ALONE = {"max": "max_values", "min": "min_values"}
"""Op of two values -> the op of the first of them alone, where nothing reads at which entries they stand."""
REDUCTIONS = (*(name for name, *_ in _REDUCTIONS), *VALUES_ALONE.values())
"""Ops that reduce the axes of their attribute "dim"."""

_COUNTS = {
    "mean": ChannelStatistics(norm=False),
    "sum": ChannelStatistics(norm=False, total=True),
    "norm": ChannelStatistics(norm=False, order="p"),
    "vector_norm": ChannelStatistics(norm=False, order="ord"),
    "var": ChannelStatistics(norm=False, power=2),
    "std": ChannelStatistics(norm=False, power=1),
    "amax": ChannelStatistics(norm=False, extremum=1),
    "amin": ChannelStatistics(norm=False, extremum=-1),
    "max_values": ChannelStatistics(norm=False, extremum=1),
    "min_values": ChannelStatistics(norm=False, extremum=-1),
}
for _name, _function, _others, _text, _optional in _REDUCTIONS:
    register(
        OpSpec(
            _name,
            _infer(_function, _optional),
            _channels,
            _emit(_function, _optional),
            channelwise=True,
            linear=_name in ("mean", "sum"),
            counts=_COUNTS.get(_name),
            nonnegative=with_first if _name in ("mean", "sum", "amax") else False,
            functions=dict.fromkeys((_function, *_others), Call(signature(_text))),
        )
    )


def _infer_values(function: Callable[..., Any]) -> Callable[[Operands], Type]:
    """The first of the two values that `function` gives."""
    both = _infer(function, ())

    def infer(operands: Operands) -> Type:
        found = both(operands)
        return found.items[0] if isinstance(found, TupleType) else found

    return infer


def _emit_values(function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    both = _emit(function, ())
    return lambda emitter, node: emitter.call(operator.getitem, both(emitter, node), 0)


for _function in (torch.max, torch.min):
    _name = VALUES_ALONE[_function.__name__]
    register(
        OpSpec(
            _name,
            _infer_values(_function),
            _channels,
            _emit_values(_function),
            channelwise=True,
            counts=_COUNTS[_name],
            nonnegative=with_first,
        )
    )


def _infer_topk(operands: Operands) -> Type:
    x, k = operands.tensor(), operands.node.attrs["k"]
    (dim,) = reduced_axes(operands)
    shape = (*x.shape[:dim], k, *x.shape[dim + 1 :])
    return TupleType((TensorType(x.dtype, shape), TensorType("i64", shape)))


def _topk_channels(rules: ChannelRules, operands: Operands) -> None:
    (dim,) = reduced_axes(operands)
    rules.freeze(rules.layout(0, dim), "topk chooses among its channels")
    for axis in range(len(operands.tensor().shape)):
        if axis != dim:
            set_each(rules, operands, axis, rules.layout(0, axis))


register(
    OpSpec(
        "topk",
        _infer_topk,
        _topk_channels,
        _emit(torch.topk, ()),
        channelwise=True,
        functions=dict.fromkeys((torch.topk, "topk"), Call(signature("input k dim=-1 largest=True sorted=True"))),
    )
)
