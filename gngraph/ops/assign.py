"""Assignment to a part of a value, which gives a new value: `x[index] = value`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from gngraph.ir import Node
from gngraph.ops.rules import freeze_inputs, same_type
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, register, signature


def assigned(input: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """What stands in a trace for an assignment: `input` with `value` at `index`."""
    result = input.clone()
    result[index] = value
    return result


def _assigned_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_inputs(rules, operands, "a part of it is assigned")


def _emit_assigned(emitter: Emitter, node: Node) -> fx.Node:
    """A copy that is changed in place, as the source changes its own: the calls of torch are the same."""
    result = emitter.method("clone", emitter.value(node.inputs[0]))
    emitter.call(operator.setitem, result, *(emitter.resolve(node.attrs[name]) for name in ("index", "value")))
    return result


register(
    OpSpec(
        "assigned",
        same_type,
        _assigned_channels,
        _emit_assigned,
        functions={assigned: Call(signature("input index value"), sizes=("index", "value"))},
    )
)
