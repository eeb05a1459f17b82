"""Ops that bring values together: element-wise arithmetic and choice with broadcasting, and concatenation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, Ref, TensorType, Type
from gngraph.ops.dtypes import fractional, joined, promoted
from gngraph.ops.rules import broadcast_axes, broadcast_shape, broadcast_type
from gngraph.ops.sizes import hold_size
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.starts import OF_OPERAND, added, multiplied
from gngraph.ops.table import register
from gngraph.ops.traits import Claim, of_each, with_all

# op, operators, torch functions, methods, further arguments
_ARITHMETIC: list[tuple[str, Callable[..., Any], tuple[Any, ...], tuple[str, ...], str]] = [
    ("add", operator.add, (operator.iadd, torch.add), ("add", "add_", "__add__"), "alpha=1"),
    ("sub", operator.sub, (operator.isub, torch.sub, torch.subtract), ("sub", "sub_", "subtract"), "alpha=1"),
    ("mul", operator.mul, (operator.imul, torch.mul, torch.multiply), ("mul", "mul_", "multiply"), ""),
    ("div", operator.truediv, (operator.itruediv, torch.div), ("div", "div_"), ""),
    ("pow", operator.pow, (torch.pow,), ("pow",), ""),
    ("maximum", torch.maximum, (), (), ""),
    ("minimum", torch.minimum, (), (), ""),
]


def emit_arithmetic(function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    """Lowering for a function of two values, either of which may be a number."""

    def emit(emitter: Emitter, node: Node) -> fx.Node:
        values = iter(node.inputs)
        args = [
            emitter.value(next(values))
            if f"literal{i}" not in node.attrs
            else emitter.resolve(node.attrs[f"literal{i}"])
            for i in (0, 1)
        ]
        return emitter.call(function, *args)

    return emit


def _infer_quotient(operands: Operands) -> Type:
    """As of other arithmetic, but integers give fractions."""
    both = broadcast_type(operands)
    return TensorType(fractional(both.dtype), both.shape)


def _linear_quotient(node: Node, positions: frozenset[int]) -> bool:
    """In what is divided, not in what it is divided by."""
    return positions <= {0} and "literal0" not in node.attrs


def arithmetic_axes(rules: ChannelRules, operands: Operands) -> None:
    """As of other values that are brought together; a size that stands for a number goes on as the number that it was."""
    broadcast_axes(rules, operands)
    for name in ("literal0", "literal1"):
        if isinstance(operands.node.attrs.get(name), Ref):
            hold_size(rules, operands, (name,), None)


_STARTS = {"add": added, "sub": added, "mul": multiplied, "div": multiplied}
_LINEAR: dict[str, bool | Claim] = {"add": True, "sub": True, "mul": of_each, "div": _linear_quotient}

for _name, _operator, _others, _methods, _extra in _ARITHMETIC:
    _call = Call(signature(f"a b {_extra}"), operands=("a", "b"))
    _plain = Call(signature("a b"), operands=("a", "b"))
    register(
        OpSpec(
            _name,
            _infer_quotient if _name == "div" else broadcast_type,
            arithmetic_axes,
            emit_arithmetic(_operator),
            channelwise=True,
            linear=_LINEAR.get(_name, False),
            starts={OF_OPERAND: _STARTS[_name]} if _name in _STARTS else {},
            nonnegative=with_all if _name in ("add", "mul", "maximum") else False,
            functions={
                _operator: _plain,
                **dict.fromkeys([f for f in _others if f.__module__ == "_operator"], _plain),
                **dict.fromkeys([f for f in _others if f.__module__ != "_operator"], _call),
                **dict.fromkeys(_methods, _call),
            },
        )
    )


def _linear_addcmul(node: Node, positions: frozenset[int]) -> bool:
    """In what is added, and in one factor at a time."""
    return not positions >= {1, 2}


def _emit_addcmul(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.call(torch.addcmul, *(emitter.value(name) for name in node.inputs), value=node.attrs["value"])


# torch takes the value by its name alone
_ADDCMUL = Call(signature("input tensor1 tensor2 out=None value=1"), operands=("input", "tensor1", "tensor2"))
register(
    OpSpec(
        "addcmul",
        broadcast_type,
        broadcast_axes,
        _emit_addcmul,
        channelwise=True,
        linear=_linear_addcmul,
        functions=dict.fromkeys((torch.addcmul, "addcmul"), _ADDCMUL),
    )
)


def _linear_lerp(node: Node, positions: frozenset[int]) -> bool:
    """In both ends, and in the weight alone."""
    return 2 not in positions or len(positions) == 1


def _emit_lerp(emitter: Emitter, node: Node) -> fx.Node:
    values = [emitter.value(name) for name in node.inputs[: 2 if "literal1" in node.attrs else 3]]
    return emitter.call(torch.lerp, *values, *(emitter.resolve(node.attrs[key]) for key in node.attrs))


_LERP = Call(signature("input a b"), operands=("input", "a", "b"))  # a weight may be a number, as operands named so may
register(
    OpSpec(
        "lerp",
        broadcast_type,
        arithmetic_axes,
        _emit_lerp,
        channelwise=True,
        linear=_linear_lerp,
        functions=dict.fromkeys((torch.lerp, "lerp", "lerp_"), _LERP),
    )
)


def _infer_comparison(operands: Operands) -> Type:
    return TensorType("bool", broadcast_shape(operands))


_COMPARISONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "eq": (operator.eq, torch.eq),
    "ne": (operator.ne, torch.ne),
    "lt": (operator.lt, torch.lt),
    "le": (operator.le, torch.le),
    "gt": (operator.gt, torch.gt),
    "ge": (operator.ge, torch.ge),
}
for _name, (_operator, _function) in _COMPARISONS.items():
    register(
        OpSpec(
            _name,
            _infer_comparison,
            broadcast_axes,
            emit_arithmetic(_operator),
            channelwise=True,
            functions=dict.fromkeys((_operator, _function, _name), Call(signature("a b"), operands=("a", "b"))),
        )
    )


def _emit_where(emitter: Emitter, node: Node) -> fx.Node:
    condition, *rest = (emitter.value(name) for name in node.inputs)
    values = iter(rest)
    literals = [emitter.resolve(node.attrs.get(f"literal{i}")) for i in (0, 1)]
    return emitter.call(torch.where, condition, *(next(values) if x is None else x for x in literals))


register(
    OpSpec(
        "where",
        lambda operands: TensorType(promoted(operands, first=1), broadcast_shape(operands)),
        broadcast_axes,
        _emit_where,
        channelwise=True,
        functions={torch.where: Call(signature("condition a b"), operands=("condition", "a", "b"))},
    )
)
register(
    OpSpec(
        "masked_fill",
        lambda operands: TensorType(operands.tensor().dtype, broadcast_shape(operands)),
        broadcast_axes,
        lambda emitter, node: emitter.method(
            "masked_fill", *(emitter.value(name) for name in node.inputs), node.attrs["value"]
        ),
        channelwise=True,
        functions=dict.fromkeys(
            (torch.masked_fill, "masked_fill", "masked_fill_"),
            Call(signature("input mask value"), operands=("input", "mask")),
        ),
    )
)


def _joined(operands: Operands) -> list[int]:
    """The positions of what is joined: torch passes over tensors of shape [0], with which caches start."""
    every = range(len(operands.inputs))
    return [i for i in every if operands.tensor(i).shape != (0,)] or list(every)


def _infer_cat(operands: Operands) -> Type:
    node = operands.node
    types = [operands.tensor(i) for i in _joined(operands)]
    rank = len(types[0].shape)
    dim = node.attrs["dim"] % rank
    total = 0
    for t in types:
        if len(t.shape) != rank or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, types[0].shape, strict=True)) if i != dim
        ):
            raise IRError(f"node '{node.name}' (cat) joins '{types[0]}' and '{t}' along axis {dim}, which do not fit")
        total += int(t.shape[dim])
    shape: list[Dim] = list(types[0].shape)
    shape[dim] = total
    return TensorType(joined([operands.tensor(i) for i in range(len(operands.inputs))]), tuple(shape))


def _cat_channels(rules: ChannelRules, operands: Operands) -> None:
    parts = _joined(operands)
    rank = len(operands.tensor(parts[0]).shape)
    dim = operands.node.attrs["dim"] % rank
    for axis in range(rank):
        layouts = [rules.layout(i, axis) for i in parts]
        if axis != dim:
            rules.set(axis, rules.unify(layouts))
            continue
        rules.set(axis, rules.join(layouts, [operands.tensor(i).shape[axis] for i in parts]))


def _emit_cat(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.call(torch.cat, [emitter.value(name) for name in node.inputs], dim=node.attrs["dim"])


register(
    OpSpec(
        "cat",
        _infer_cat,
        _cat_channels,
        _emit_cat,
        channelwise=True,
        linear=True,
        nonnegative=with_all,
        functions={
            torch.cat: Call(signature("tensors dim=0"), operands=("tensors",)),
            torch.concat: Call(signature("tensors dim=0"), operands=("tensors",)),
        },
    )
)


def _infer_stack(operands: Operands) -> Type:
    node, types = operands.node, [operands.tensor(i) for i in range(len(operands.inputs))]
    first = types[0]
    for other in types[1:]:
        if other.shape != first.shape:
            raise IRError(f"node '{node.name}' (stack) puts '{first}' and '{other}' beside each other")
    dim = node.attrs["dim"] % (len(first.shape) + 1)
    return TensorType(joined(types), (*first.shape[:dim], len(operands.inputs), *first.shape[dim:]))


def _stack_channels(rules: ChannelRules, operands: Operands) -> None:
    rank = len(operands.tensor().shape)
    dim = operands.node.attrs["dim"] % (rank + 1)
    for axis in range(rank):
        rules.set(axis + (axis >= dim), rules.unify([rules.layout(i, axis) for i in range(len(operands.inputs))]))


def _emit_stack(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.call(torch.stack, [emitter.value(name) for name in node.inputs], dim=node.attrs["dim"])


register(
    OpSpec(
        "stack",
        _infer_stack,
        _stack_channels,
        _emit_stack,
        channelwise=True,
        linear=True,
        functions={torch.stack: Call(signature("tensors dim=0"), operands=("tensors",))},
    )
)


def _infer_expand_as(operands: Operands) -> Type:
    shape = broadcast_shape(operands)
    if shape != operands.tensor(1).shape:
        raise IRError(f"node '{operands.node.name}' (expand_as) cannot expand '{operands.tensor()}'")
    return TensorType(operands.tensor().dtype, shape)


def _expand_as_channels(rules: ChannelRules, operands: Operands) -> None:
    """Where a size is kept both axes are one; where an entry is repeated it must stay single."""
    old, new = operands.tensor().shape, operands.tensor(1).shape
    shift = len(new) - len(old)
    for axis, size in enumerate(new):
        own = rules.layout(0, axis - shift) if axis >= shift else None
        if axis >= shift and old[axis - shift] == size:
            rules.set(axis, rules.unify([own, rules.layout(1, axis)]))
        else:
            rules.freeze(own, "its single channel is expanded")
            rules.set(axis, rules.layout(1, axis))


register(
    OpSpec(
        "expand_as",
        _infer_expand_as,
        _expand_as_channels,
        lambda emitter, node: emitter.method("expand_as", *(emitter.value(name) for name in node.inputs)),
        channelwise=True,
        linear=True,
        functions={"expand_as": Call(signature("input other"), operands=("input", "other"))},
    )
)
