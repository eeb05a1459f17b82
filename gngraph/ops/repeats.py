"""Ops that repeat entries: whole axes one behind the other, or each entry by itself."""

from __future__ import annotations

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import BATCH, Node, TensorType, Type
from gngraph.ops.reshape import REPETITIONS
from gngraph.ops.sizes import hold_size, known_size, product, scaled, size_layout
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def _infer_repeated(operands: Operands) -> Type:
    x, dim, times = operands.tensor(), operands.node.attrs["dim"], known_size(operands.node.attrs["repeats"], operands)
    if not isinstance(dim, int) or not isinstance(times, int) or times < 1:
        raise IRError(f"node '{operands.node.name}' (repeat_interleave) needs an axis, and a number of repetitions")
    axis = dim % len(x.shape)
    return TensorType(x.dtype, (*x.shape[:axis], product(x.shape[axis], times), *x.shape[axis + 1 :]))


def _repeated_channels(rules: ChannelRules, operands: Operands) -> None:
    """Each channel has as many times its entries, which stay beside each other."""
    axis = operands.node.attrs["dim"] % len(operands.tensor().shape)
    times = known_size(operands.node.attrs["repeats"], operands)
    hold_size(rules, operands, ("repeats",), None)
    assert isinstance(times, int)
    for own in range(len(operands.tensor().shape)):
        layout = rules.layout(0, own)
        rules.set(own, layout if layout is None or own != axis else scaled(layout, times))


def _emit_repeated(emitter: Emitter, node: Node) -> fx.Node:
    times, dim = emitter.resolve(node.attrs["repeats"]), node.attrs["dim"]
    return emitter.call(torch.repeat_interleave, emitter.value(node.inputs[0]), times, dim=dim)


_REPEATED = Call(signature("input repeats dim=None output_size=None"), ignored=("output_size",), sizes=("repeats",))
register(
    OpSpec(
        "repeat_interleave",
        _infer_repeated,
        _repeated_channels,
        _emit_repeated,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        functions=dict.fromkeys((torch.repeat_interleave, "repeat_interleave"), _REPEATED),
    )
)


def _infer_repeat(operands: Operands) -> Type:
    x, node = operands.tensor(), operands.node
    times = [known_size(entry, operands) for entry in node.attrs["sizes"]]
    if len(times) < len(x.shape) or any(count is None or (isinstance(count, int) and count < 1) for count in times):
        raise IRError(f"node '{node.name}' (repeat) needs how often each axis of '{x}' is repeated")
    old = (1,) * (len(times) - len(x.shape)) + x.shape
    return TensorType(x.dtype, tuple(product(size, count or 1) for size, count in zip(old, times, strict=True)))


def _repeat_channels(rules: ChannelRules, operands: Operands) -> None:
    """An axis that is repeated has its channels several times in a row."""
    entries = operands.node.attrs["sizes"]
    shift = len(entries) - len(operands.tensor().shape)
    alone = all(rules.layout(0, axis - shift) is None for axis in range(shift, len(entries)) if entries[axis] == 1)
    for axis, entry in enumerate(entries):
        single = axis < shift or operands.tensor().shape[axis - shift] == 1
        layout, times = rules.layout(0, axis - shift) if axis >= shift else None, known_size(entry, operands)
        alike = size_layout(rules, operands, entry) if single else None  # in all copies of the only entry
        if single and alike is None and isinstance(times, int) and times > 1 and alone:
            alike = rules.blank(times)
        hold_size(rules, operands, ("sizes", axis), alike)
        if alike is not None:
            rules.freeze(layout, "its single channel is repeated")
            rules.set(axis, alike)
            continue
        if layout is not None and times == BATCH and isinstance(operands.tensor().shape[axis - shift], int):
            rules.set(axis, layout)  # of one sample
            continue
        among_samples = axis >= shift and isinstance(operands.tensor().shape[axis - shift], str) and times != 1
        if layout is not None and (among_samples or not isinstance(times, int) or len(layout) * times > REPETITIONS):
            rules.freeze(layout, f"it is repeated {times} times")
        elif layout is not None and isinstance(times, int):
            rules.set(axis, layout * times)


# import makes it of calls of the method, whose sizes come in many spellings
register(
    OpSpec(
        "repeat",
        _infer_repeat,
        _repeat_channels,
        lambda emitter, node: emitter.method(
            "repeat", emitter.value(node.inputs[0]), *emitter.resolve(node.attrs["sizes"])
        ),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
    )
)
