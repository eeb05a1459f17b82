"""Layers whose weight is put together of parameters: scaled, of low rank, or a sum of both, as adapters of low rank have it.

The attribute `formula` says how: the role of a parameter, a number, or an operation with its operands, such as
("add", "weight0", ("mul", ("matmul", "weight1", "weight2"), 0.5)). Rows of what it gives write channels, and columns read them; a
product of matrices has channels of its own between them. Of two that are multiplied entry by entry, as a weight by a mask, the
first one writes and reads, and the second goes along. `bias_formula` says how a bias is formed of "bias0" and others.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Node, TensorType, Type
from gngraph.ops.conv import CONVOLUTIONS, convolution_positions, hold_positions, infer_convolution
from gngraph.ops.linear import infer_linear, linear_positions
from gngraph.ops.spec import ChannelRules, Emitter, Factor, Layout, Operands, OpSpec
from gngraph.ops.stepwise import OF_SEVERAL
from gngraph.ops.table import register

FORMED = "formed_"
"""What stands before the name of the layer."""

_RANKS = {f"{FORMED}linear": 2, **{f"{FORMED}conv{rank}d": rank + 2 for rank in CONVOLUTIONS}}
"""Axes of the weight of each op."""

_Places = list[tuple[str, int]]
"""Axes of parameters, by role."""

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "matmul": torch.matmul,
}
"""Operations of a formula with two operands; "t" has one, which it transposes."""

BY_MODE = "by_mode"
"""Operation of a formula that gives the first operand in eval mode, and the second in train mode."""


def parts_of(formula: Attr) -> Iterator[str]:
    """The roles of the parameters in a formula, as they stand there."""
    if isinstance(formula, str):
        yield formula
    elif isinstance(formula, tuple):
        for operand in formula[1:]:
            yield from parts_of(operand)


def formed_shape(formula: Attr, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of what a formula gives; () of a number.

    Args:
        formula: see the module.
        shapes: of the parameters by role.

    Raises:
        IRError: it is no formula, or its operands do not fit.
    """
    if isinstance(formula, (int, float)) and not isinstance(formula, bool):
        return ()
    if isinstance(formula, str) and formula in shapes:
        return shapes[formula]
    if isinstance(formula, tuple) and formula:
        name, operands = formula[0], [formed_shape(operand, shapes) for operand in formula[1:]]
        if name in ("t", "matmul") and any(_masks(operand, shapes) for operand in formula[1:]):
            name = ""  # what reads, and what has its entries, would not be told apart
        if name == "t" and [len(shape) for shape in operands] == [2]:
            return operands[0][::-1]
        if name == "matmul" and [len(s) for s in operands] == [2, 2] and operands[0][1] == operands[1][0]:
            return operands[0][0], operands[1][1]
        if len(operands) == 2 and name in ("add", "sub", BY_MODE) and operands[0] == operands[1]:
            return operands[0]
        if len(operands) == 2 and name in ("mul", "div") and () in (operands[1:] if name == "div" else operands):
            return max(operands, key=len)
        if len(operands) == 2 and name == "mul" and operands[0] == operands[1]:
            return operands[0]
    raise IRError(f"the weight of a layer is formed by {formula}, which does not fit parameters of {dict(shapes)}")


def _axes(formula: Attr, shapes: Mapping[str, tuple[int, ...]]) -> tuple[_Places, _Places]:
    """The axes of parameters that are the rows of what a formula gives, and those that are its columns; linear in either."""
    if isinstance(formula, str):
        return ([(formula, 0)], [(formula, 1)]) if shapes[formula] else ([], [])
    if not isinstance(formula, tuple):
        return [], []
    found = [_axes(operand, shapes) for operand in formula[1:]]
    if formula[0] == "t":
        return found[0][::-1]
    if formula[0] == "matmul":
        return found[0][0], found[1][1]
    if formula[0] == "mul" and found[0][1] and found[1][1]:
        return found[0]
    return found[0][0] + found[1][0], found[0][1] + found[1][1]


def _masks(formula: Attr, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The roles of parameters that something is multiplied by, entry by entry."""
    if not isinstance(formula, tuple):
        return []
    found = [role for operand in formula[1:] for role in _masks(operand, shapes)]
    if formula[0] == "mul" and all(formed_shape(operand, shapes) for operand in formula[1:]):
        found += parts_of(formula[2])
    return found


def _products(formula: Attr) -> Iterator[tuple[Attr, Attr]]:
    """The factors of every product of matrices within a formula."""
    if isinstance(formula, tuple):
        for operand in formula[1:]:
            yield from _products(operand)
        if formula[0] == "matmul":
            yield formula[1], formula[2]


def _whole(operands: Operands) -> dict[str, tuple[int, ...]]:
    shapes = {role: type_.shape for role, type_ in operands.params.items() if not role.startswith("bias")}
    return {role: tuple(int(size) for size in shape) for role, shape in shapes.items()}


def _biases(operands: Operands) -> dict[str, tuple[int, ...]]:
    """The shapes of what a bias is, or is formed of, by role."""
    shapes = {role: type_.shape for role, type_ in operands.params.items() if role.startswith("bias")}
    return {role: tuple(int(size) for size in shape) for role, shape in shapes.items()}


def _with_weight(operands: Operands) -> Operands:
    """The operands of the plain layer that has the formed weight."""
    formula, shapes = operands.node.attrs["formula"], _whole(operands)
    if set(parts_of(formula)) != set(shapes):
        raise IRError(
            f"node '{operands.node.name}' ({operands.node.op}) forms its weight of other parameters than it has"
        )
    shape = formed_shape(formula, shapes)
    if len(shape) != _RANKS[operands.node.op]:
        raise IRError(f"node '{operands.node.name}' ({operands.node.op}) forms a weight of shape {shape}")
    dtype, biases = next(type_.dtype for type_ in operands.params.values()), _biases(operands)
    found = {**operands.params, "weight": TensorType(dtype, shape)}
    if "bias_formula" in operands.node.attrs:
        bias = formed_shape(operands.node.attrs["bias_formula"], biases)
        if set(parts_of(operands.node.attrs["bias_formula"])) != set(biases) or bias != shape[:1]:
            raise IRError(f"node '{operands.node.name}' ({operands.node.op}) forms a bias of shape {bias}")
        found["bias"] = TensorType(dtype, bias)
    return Operands(operands.node, operands.inputs, found)


def _channels(rules: ChannelRules, operands: Operands) -> None:
    formula, shapes = operands.node.attrs["formula"], _whole(operands)
    rank = len(operands.tensor().shape)
    features = rank - 1 if operands.node.op == f"{FORMED}linear" else 1
    for axis in range(features):
        rules.set(axis, rules.layout(0, axis))
    if features < rank - 1:
        hold_positions(rules, operands, _with_weight(operands).params["weight"].shape)
    rows, columns = _axes(formula, shapes)
    written = _written(rules, rows)
    for role, axis in columns:
        rules.consume(role, axis, rules.layout(0, features))
    for role in dict.fromkeys(_masks(formula, shapes)):
        if len(shapes[role]) > 1:
            rules.follow(role, 0, written, "copied")
            rules.follow(role, 1, rules.layout(0, features), "copied")
    for left, right in _products(formula):
        inner = _written(rules, _axes(right, shapes)[0])
        for role, axis in _axes(left, shapes)[1]:
            rules.consume(role, axis, inner)
    for role, shape in _biases(operands).items():
        if shape:
            rules.follow(role, 0, written, "zeros")
    rules.set(features, written)


def _written(rules: ChannelRules, places: _Places) -> Layout | None:
    return rules.unify([rules.produce(role, axis) for role, axis in places])


def _reads(node: Node, role: str) -> int | None:
    """What the only parameter reads whose columns are the weight's; several of them do it together."""
    formula = node.attrs["formula"]
    matrices = dict.fromkeys(parts_of(formula), (1, 1))  # no node knows shapes: beside a scalar nothing reads alone
    columns = [own for own, _ in _axes(formula, matrices)[1]]
    return 0 if columns == [role] and not _masks(formula, matrices) else OF_SEVERAL


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    def formed(formula: Attr) -> Any:
        if isinstance(formula, str):
            return emitter.param(node.params[formula])
        if not isinstance(formula, tuple):
            return formula
        operands = [formed(operand) for operand in formula[1:]]
        if formula[0] == BY_MODE:
            return emitter.call(operator.getitem, tuple(operands), emitter.training())
        return emitter.method("t", *operands) if formula[0] == "t" else emitter.call(OPERATIONS[formula[0]], *operands)

    formula = node.attrs["formula"]
    x, weight = emitter.value(node.inputs[0]), formed(formula)
    bias = formed(node.attrs.get("bias_formula", "bias" if "bias" in node.params else None))
    if node.op == f"{FORMED}linear":
        return emitter.call(F.linear, x, weight, bias)
    options = {key: value for key, value in node.attrs.items() if key not in ("formula", "bias_formula")}
    rank = max(len(emitter.shape(node.params[role])) for role in parts_of(formula)) - 2
    return emitter.call(CONVOLUTIONS[rank], x, weight, bias, **options)


def _inferred(infer: Callable[[Operands], Type]) -> Callable[[Operands], Type]:
    def inferred(operands: Operands) -> Type:
        if operands.node.attrs.get("groups", 1) != 1:
            raise IRError(
                f"node '{operands.node.name}' ({operands.node.op}) has groups, which a formed weight may not have"
            )
        return infer(_with_weight(operands))

    return inferred


def _multiplied(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    """What the layer takes, and the products of matrices that form its weight, as of a batch of one sample."""
    formula, shapes, whole = operands.node.attrs["formula"], _whole(operands), _with_weight(operands)
    rank = len(operands.tensor().shape)
    row, *_ = _axes(formula, shapes)[0]
    forming = ((_axes(a, shapes)[0][0], _axes(b, shapes)[0][0], _axes(b, shapes)[1][0]) for a, b in _products(formula))
    if operands.node.op == f"{FORMED}linear":
        return ((*linear_positions(whole, operands.node.type), (0, rank - 1), row), *forming)
    positions = convolution_positions(whole, infer_convolution(whole))
    kernel = math.prod(int(size) for size in whole.params["weight"].shape[2:])
    return ((*positions, kernel, (0, 1), row), *forming)


for _name, _infer in (("linear", infer_linear), *((f"conv{rank}d", infer_convolution) for rank in CONVOLUTIONS)):
    register(
        OpSpec(
            f"{FORMED}{_name}",
            _inferred(_infer),
            _channels,
            _emit,
            products=_multiplied,
            linear=True,
            channel_axis=-1 if _name == "linear" else 1,
            reads=_reads,
        )
    )
