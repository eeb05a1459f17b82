"""What training alone sees: values that no gradient passes, and values that are computed in another way while training."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Node, Type
from gngraph.ops.rules import all_axes, same_type
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register

register(
    OpSpec(
        "detach",
        same_type,
        all_axes,
        lambda emitter, node: emitter.method("detach", emitter.value(node.inputs[0])),
        channelwise=True,
        linear=True,
        functions=dict.fromkeys((torch.detach, "detach"), Call(signature("input"))),
    )
)


def by_mode(evaluated: Any, trained: Any) -> Any:
    """What stands in a trace for a value that is `evaluated` in eval mode and `trained` in train mode."""
    return evaluated


def _infer_by_mode(operands: Operands) -> Type:
    evaluated, trained = operands.tensor(0), operands.tensor(1)
    if evaluated != trained:
        raise IRError(
            f"node '{operands.node.name}' (by_mode) is '{evaluated}' in eval mode, but '{trained}' in train mode"
        )
    return evaluated


def _by_mode_channels(rules: ChannelRules, operands: Operands) -> None:
    """Both have the same channels."""
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis, rules.unify([rules.layout(0, axis), rules.layout(1, axis)]))


def _emit_by_mode(emitter: Emitter, node: Node) -> fx.Node:
    values = tuple(emitter.value(name) for name in node.inputs)
    return emitter.call(operator.getitem, values, emitter.training())


register(
    OpSpec(
        "by_mode",
        _infer_by_mode,
        _by_mode_channels,
        _emit_by_mode,
        channelwise=True,
        linear=True,
        functions={by_mode: Call(signature("evaluated trained"), operands=("evaluated", "trained"))},
    )
)
