"""Transposed convolutions of 1, 2 and 3 dimensions: their weight is [in, out / groups, *kernel]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Node, OpaqueType, TensorType, Type
from gngraph.ops.leaves import leaf
from gngraph.ops.rules import spread
from gngraph.ops.sizes import known_sizes, sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Layout, Operands, OpSpec, signature
from gngraph.ops.starts import of_layer, within
from gngraph.ops.table import register

_OPTIONS = ("stride", "padding", "output_padding", "dilation")
_MODULES: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
TRANSPOSED: dict[int, Callable[..., Any]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""Functions by the number of axes of the kernel."""


def infer_transposed(operands: Operands) -> Type:
    """The type of a transposed convolution's value, from its input, its weight and its options.

    Args:
        operands: the node.

    Raises:
        IRError: they do not fit.
    """
    node, x, weight = operands.node, operands.tensor(), operands.params["weight"].shape
    rank = len(weight) - 2
    if len(x.shape) != rank + 2:
        raise IRError(f"node '{node.name}' ({node.op}) needs an input of {rank + 2} axes with the batch, not '{x}'")
    if x.shape[1] != weight[0]:
        raise IRError(f"node '{node.name}' ({node.op}) reads {x.shape[1]} channels, but its weight is for {weight[0]}")
    stride, padding, extra, dilation = (spread(node.attrs[key], rank) for key in _OPTIONS)
    if node.attrs.get("output_size") is not None:
        asked = known_sizes(node.attrs["output_size"], operands)[-rank:]
        if len(asked) != rank or not all(isinstance(size, int) for size in asked):
            raise IRError(f"node '{node.name}' ({node.op}) gives a size that is not known when the network is traced")
        return TensorType(
            x.dtype,
            (x.shape[0], int(weight[1]) * node.attrs["groups"], *(int(size) for size in asked if size is not None)),
        )
    sizes = (
        (int(size) - 1) * stride[i] - 2 * padding[i] + dilation[i] * (int(weight[2 + i]) - 1) + extra[i] + 1
        for i, size in enumerate(x.shape[2:])
    )
    return TensorType(x.dtype, (x.shape[0], int(weight[1]) * node.attrs["groups"], *sizes))


def transposed_positions(operands: Operands, result: Type) -> tuple[Factor, ...]:
    """How often the whole weight is applied: at every position of the input.

    Args:
        operands: the node.
        result: its type, which is not looked at.
    """
    return (*sizes_of(operands, 0, (0,)), math.prod(int(size) for size in operands.tensor().shape[2:]))


def transposed_channels(rules: ChannelRules, operands: Operands) -> None:
    """Channels are read along the weight's first axis and written along its second; whole groups where there are several.

    Args:
        rules: of the analysis under way.
        operands: the node.
    """
    for axis in range(2, len(operands.tensor().shape)):
        rules.freeze(rules.layout(0, axis), "it is convolved over, which mixes neighbours")
    for i, type_ in enumerate(operands.inputs[1:], start=1):  # the sizes asked for, of which only the last ones count
        count = len(type_.value) if isinstance(type_, OpaqueType) and isinstance(type_.value, tuple) else 1
        for axis in range(2 if count > 2 else 0, count):
            rules.freeze(rules.layout(i, axis), "a transposed convolution takes its size")
    layout = rules.layout(0, 1)
    out: Layout | None
    if operands.node.attrs["groups"] == 1:
        rules.consume("weight", 0, layout)
        out = rules.produce("weight", 1)
    else:
        out = _grouped(rules, operands, layout)
    if "bias" in operands.params:
        rules.follow("bias", 0, out, "zeros")
    rules.set(1, out)


def _grouped(rules: ChannelRules, operands: Operands, layout: Layout | None) -> Layout | None:
    """Whole groups are the channels, each with all that it reads and writes; depthwise, a group is a channel."""
    weight, groups = operands.params["weight"].shape, int(operands.node.attrs["groups"])
    width, written = int(weight[0]) // groups, int(weight[1])
    reason = f"its channels are divided among {groups} groups, in whose bounds they do not fall"
    grouped = rules.group(layout, width, reason)
    if grouped is None:
        return None
    rules.measure(("groups",), grouped)
    for role in ("weight", "gain") if "gain" in operands.params else ("weight",):
        rules.follow(role, 0, tuple(type(s)(s.var, s.size, s.inner * width) for s in grouped), "random")
    return tuple(type(s)(s.var, s.size, s.inner * written) for s in grouped)


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    x, weight = emitter.value(node.inputs[0]), emitter.shape(node.params["weight"])
    rank, groups = len(weight) - 2, node.attrs["groups"]
    options = {key: node.attrs[key] for key in _OPTIONS}
    if node.module is None:
        bias = emitter.param(node.params["bias"]) if "bias" in node.params else None
        return emitter.call(TRANSPOSED[rank], x, emitter.param(node.params["weight"]), bias, groups=groups, **options)

    def build() -> nn.Module:
        has_bias = "bias" in node.params
        return leaf(_MODULES[rank], weight[0], weight[1] * groups, weight[2:], groups=groups, bias=has_bias, **options)

    asked = node.attrs.get("output_size")
    return emitter.module(build, x, **({} if asked is None else {"output_size": emitter.resolve(asked)}))


def _read(module: Any) -> dict[str, Any]:
    return {"groups": module.groups, **{key: tuple(getattr(module, key)) for key in _OPTIONS}}


for _rank in (1, 2, 3):
    register(
        OpSpec(
            f"transposed_conv{_rank}d",
            infer_transposed,
            transposed_channels,
            _emit,
            positions=transposed_positions,
            linear=True,
            starts=of_layer(within(lambda node, weight: weight[0].numel())),
            modules={_MODULES[_rank]: _read},
            call=Call(signature("input output_size=None")),
            functions={
                TRANSPOSED[_rank]: Call(
                    signature("input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"),
                    params=("weight", "bias"),
                )
            },
        )
    )
