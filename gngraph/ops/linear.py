"""Linear layers, whose weight is [out, in], and their kin with a weight [in, out]; the feature axis is the last one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Node, TensorType, Type
from gngraph.ops.leaves import leaf
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Fresh, Operands, OpSpec, signature
from gngraph.ops.starts import of_layer, within
from gngraph.ops.table import register

_PER_ROW: Mapping[str, Fresh] = {"bias": "zeros", "gain": "ones"}
"""Roles of parameters with an entry for each row, and how that of a new one starts."""


def infer_linear(operands: Operands) -> Type:
    """Type of what a linear layer gives."""
    x, weight = operands.tensor(), operands.params["weight"].shape
    if x.shape[-1] != weight[1]:
        raise IRError(
            f"node '{operands.node.name}' (linear) reads {x.shape[-1]} features, but its weight is for {weight[1]}"
        )
    return TensorType(x.dtype, (*x.shape[:-1], weight[0]))


def linear_positions(operands: Operands, result: Type) -> tuple[Factor, ...]:
    """How often each entry of the weight is multiplied for one sample."""
    return sizes_of(operands, 0, range(len(operands.tensor().shape) - 1))


def linear_channels(rules: ChannelRules, operands: Operands) -> None:
    """Rows write features, and columns read them."""
    last = len(operands.tensor().shape) - 1
    for axis in range(last):
        rules.set(axis, rules.layout(0, axis))
    rules.consume("weight", 1, rules.layout(0, last))
    out = rules.produce("weight", 0)
    for role, fresh in _PER_ROW.items():
        if role in operands.params:
            rules.follow(role, 0, out, fresh)
    rules.set(last, out)


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    x = emitter.value(node.inputs[0])
    out, features = emitter.shape(node.params["weight"])
    if node.module is None:
        bias = emitter.param(node.params["bias"]) if "bias" in node.params else None
        return emitter.call(F.linear, x, emitter.param(node.params["weight"]), bias)
    return emitter.module(lambda: leaf(nn.Linear, features, out, bias="bias" in node.params), x)


register(
    OpSpec(
        "linear",
        infer_linear,
        linear_channels,
        _emit,
        positions=linear_positions,
        apply=lambda node, x, weight: F.linear(x, weight),
        linear=True,
        channel_axis=-1,
        starts=of_layer(within(lambda node, weight: weight.shape[1])),
        modules={nn.Linear: lambda module: {}},
        functions={F.linear: Call(signature("input weight bias=None"), params=("weight", "bias"))},
    )
)


def _infer_with_bias(operands: Operands) -> Type:
    node, out, bias = operands.node, operands.params["weight"].shape[0], operands.tensor(1).shape
    if bias != (out,):
        raise IRError(f"node '{node.name}' (linear_with_bias) writes {out} features, but its bias is {bias}")
    return infer_linear(operands)


def _channels_with_bias(rules: ChannelRules, operands: Operands) -> None:
    linear_channels(rules, operands)
    rules.set(len(operands.tensor().shape) - 1, rules.unify([rules.produce("weight", 0), rules.layout(1, 0)]))


def _emit_with_bias(emitter: Emitter, node: Node) -> fx.Node:
    x, bias = (emitter.value(name) for name in node.inputs)
    return emitter.call(F.linear, x, emitter.param(node.params["weight"]), bias)


# a layer whose bias a forward computes; import finds it
register(
    OpSpec(
        "linear_with_bias",
        _infer_with_bias,
        _channels_with_bias,
        _emit_with_bias,
        positions=linear_positions,
        apply=lambda node, x, weight: F.linear(x, weight),
        linear=True,
        channel_axis=-1,
        starts=of_layer(within(lambda node, weight: weight.shape[1])),
    )
)


def _infer_transposed(operands: Operands) -> Type:
    x, weight = operands.tensor(), operands.params["weight"].shape
    if len(weight) != 2 or x.shape[-1] != weight[0]:
        raise IRError(
            f"node '{operands.node.name}' (transposed_linear) reads {x.shape[-1]} features, but its weight is for {weight[0]}"
        )
    return TensorType(x.dtype, (*x.shape[:-1], weight[1]))


def _transposed_channels(rules: ChannelRules, operands: Operands) -> None:
    last = len(operands.tensor().shape) - 1
    for axis in range(last):
        rules.set(axis, rules.layout(0, axis))
    rules.consume("weight", 0, rules.layout(0, last))
    out = rules.produce("weight", 1)
    if "bias" in operands.params:
        rules.follow("bias", 0, out, "zeros")
    rules.set(last, out)


def _emit_transposed(emitter: Emitter, node: Node) -> fx.Node:
    bias = emitter.param(node.params["bias"]) if "bias" in node.params else None
    weight = emitter.method("t", emitter.param(node.params["weight"]))
    return emitter.call(F.linear, emitter.value(node.inputs[0]), weight, bias)


_STARTS = of_layer(within(lambda node, weight: weight.shape[0]))


# a raw weight [in, out] of which the transpose is taken; import finds it
register(
    OpSpec(
        "transposed_linear",
        _infer_transposed,
        _transposed_channels,
        _emit_transposed,
        positions=linear_positions,
        linear=True,
        channel_axis=-1,
        starts=_STARTS,
    )
)


def _infer_addmm(operands: Operands) -> Type:
    node, x, weight = operands.node, operands.tensor(), operands.params["weight"].shape
    if len(x.shape) != 2 or x.shape[1] != weight[0] or operands.params["bias"].shape != (weight[1],):
        raise IRError(f"node '{node.name}' (addmm) does not multiply rows by a weight and add a bias")
    if node.attrs["beta"] != 1:
        raise IRError(f"node '{node.name}' (addmm) scales its bias by {node.attrs['beta']}")
    return TensorType(x.dtype, (x.shape[0], weight[1]))


def _addmm_channels(rules: ChannelRules, operands: Operands) -> None:
    rules.set(0, rules.layout(0, 0))
    rules.consume("weight", 0, rules.layout(0, 1))
    out = rules.produce("weight", 1)
    rules.follow("bias", 0, out, "zeros")
    rules.set(1, out)


def _emit_addmm(emitter: Emitter, node: Node) -> fx.Node:
    bias, weight = (emitter.param(node.params[role]) for role in ("bias", "weight"))
    return emitter.call(torch.addmm, bias, emitter.value(node.inputs[0]), weight)


register(
    OpSpec(
        "addmm",
        _infer_addmm,
        _addmm_channels,
        _emit_addmm,
        positions=linear_positions,
        linear=True,
        channel_axis=-1,
        starts=_STARTS,
        functions={
            torch.addmm: Call(signature("bias x weight beta=1 alpha=1"), operands=("x",), params=("bias", "weight"))
        },
    )
)
