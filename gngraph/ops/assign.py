"""Assignment to a part of a value, which gives a new value: `x[index] = value`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from gngraph.ir import Node, Ref, Slice, TensorType
from gngraph.ops.rules import freeze_inputs, freeze_sizes, same_type
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register


def assigned(input: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """What stands in a trace for an assignment: `input` with `value` at `index`."""
    result = input.clone()
    result[index] = value
    return result


_WHOLE = Slice(None, None, None)
_REASON = "a part of it is assigned"


def _assigned_channels(rules: ChannelRules, operands: Operands) -> None:
    """Axes that are assigned to from end to end keep their channels, which what is assigned has too; a mask may stand in front.

    Where one number is assigned, or what has no entries for those of the mask, channels along the mask go with those of the whole.
    """
    x, value = operands.tensor().shape, operands.node.attrs["value"]
    kept = _kept_axes(operands, len(x))
    if kept is None:
        freeze_inputs(rules, operands, _REASON)
        return
    freeze_sizes(rules, operands, _REASON)
    own = operands.node.inputs.index(value.name) if isinstance(value, Ref) else None
    given = operands.inputs[own] if own is not None else None
    shape = given.shape if isinstance(given, TensorType) else ()
    for place, axis in enumerate(kept):
        behind = len(shape) - len(kept) + place  # what is assigned is broadcast from the last axis on
        if own is None or behind < 0:
            continue
        if axis is None or shape[behind] != x[axis]:
            rules.freeze(rules.layout(own, behind), _REASON if axis is None else "its single channel is broadcast")
        else:
            rules.unify([rules.layout(0, axis), rules.layout(own, behind)])
    mask = _mask(operands)
    covered = operands.tensor(mask).shape if mask is not None else ()
    alike = mask is not None and (own is None or len(shape) < len(kept) or shape[len(shape) - len(kept)] == 1)
    for axis in range(len(x)):
        if mask is not None and axis < len(covered):
            layouts = [rules.layout(0, axis), rules.layout(mask, axis)]
            for layout in () if alike else layouts:
                rules.freeze(layout, _REASON)
            rules.unify(layouts)
        elif axis not in kept:
            rules.freeze(rules.layout(0, axis), _REASON)
        rules.set(axis, rules.layout(0, axis))


def _mask(operands: Operands) -> int | None:
    """Which of the inputs is the mask that stands in front of an index; None where none does."""
    index = operands.node.attrs["index"]
    first = index[0] if isinstance(index, tuple) and index else index
    return operands.node.inputs.index(first.name) if isinstance(first, Ref) else None


def _kept_axes(operands: Operands, rank: int) -> list[int | None] | None:
    """Of each axis of what an index takes, that of the whole which it is from end to end, or None; None where that is not known."""
    index = operands.node.attrs["index"]
    axes: list[int | None] = []
    before = 0
    for place, entry in enumerate(index if isinstance(index, tuple) else (index,)):
        if isinstance(entry, Ref):
            mask = operands.inputs[operands.node.inputs.index(entry.name)]
            if place or not isinstance(mask, TensorType) or mask.dtype != "bool":
                return None
            axes, before = [None], len(mask.shape)
        elif entry is None:
            axes.append(None)
        elif isinstance(entry, Slice):
            axes.append(before if entry == _WHOLE else None)
            before += 1
        elif isinstance(entry, int) and not isinstance(entry, bool):
            before += 1
        else:
            return None
    return [*axes, *range(before, rank)]


def _linear(node: Node, positions: frozenset[int]) -> bool:
    """In the whole and in what is assigned to its part."""
    value = node.attrs["value"]
    return positions <= {0, node.inputs.index(value.name) if isinstance(value, Ref) else 0}


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
        channelwise=True,
        linear=_linear,
        functions={assigned: Call(signature("input index value"), sizes=("index", "value"))},
    )
)
