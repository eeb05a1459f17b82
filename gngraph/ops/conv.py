"""Convolutions of 1, 2 and 3 dimensions. Depthwise convolution is an op of its own, so that no width is an attribute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, TensorType, Type
from gngraph.ops.leaves import leaf
from gngraph.ops.rules import spread, window_counts
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Fresh, Layout, Operands, OpSpec, signature
from gngraph.ops.starts import convolved, of_layer
from gngraph.ops.table import lookup, register

_MODULES: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLUTIONS: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""The functions by their number of axes."""
_PER_FILTER: Mapping[str, Fresh] = {"bias": "zeros", "gain": "ones", "mean": "zeros"}
"""Roles of parameters with an entry for each filter, and how that of a new one starts."""

NARROW = 16
"""Channels below which oneDNN computes wrong weight gradients, or writes where it must not, for a 1x1 convolution that strides over
channels last (uxlfoundation/oneDNN#6035): 8 with AVX2, 16 with AVX-512."""


def _read(module: Any) -> dict[str, Any]:
    return {
        "stride": tuple(module.stride),
        "padding": module.padding if isinstance(module.padding, str) else tuple(module.padding),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
        "padding_mode": module.padding_mode,
    }


def groups_of(node: Node, weight: tuple[Dim, ...]) -> int:
    """Number of groups: an attribute, or for depthwise convolution one for each input channel."""
    if "multiplier" in node.attrs:
        return int(weight[0]) // int(node.attrs["multiplier"])
    return int(node.attrs.get("groups", 1))


def infer_convolution(operands: Operands) -> Type:
    """Type of what a convolution gives."""
    node, x, weight = operands.node, operands.tensor(), operands.params["weight"].shape
    rank = len(weight) - 2
    if len(x.shape) != rank + 2:
        raise IRError(f"node '{node.name}' ({node.op}) needs an input of {rank + 2} axes with the batch, not '{x}'")
    channels = int(weight[1]) * groups_of(node, weight)
    if x.shape[1] != channels:
        raise IRError(f"node '{node.name}' ({node.op}) reads {x.shape[1]} channels, but its weight is for {channels}")
    return TensorType(x.dtype, (x.shape[0], weight[0], *_spatial(node, x.shape[2:], weight[2:])))


def _spatial(node: Node, size: tuple[Dim, ...], kernel: tuple[Dim, ...]) -> Sequence[Dim]:
    rank = len(kernel)
    stride, dilation = (spread(node.attrs.get(key, 1), rank) for key in ("stride", "dilation"))
    padding = node.attrs.get("padding", 0)
    if padding == "same":
        return size
    pad = spread(0 if padding == "valid" else padding, rank)
    return window_counts(size, kernel, stride, dilation, pad)


def convolution_positions(operands: Operands, result: Type) -> tuple[Factor, ...]:
    """How often each entry of the weight is multiplied for one sample."""
    assert isinstance(result, TensorType)
    single = single_positions(operands.node, operands.params["weight"].shape)
    others = (int(size) for axis, size in enumerate(result.shape) if axis > 1 and axis not in single)
    return (*sizes_of(operands, 0, (0,)), *((0, axis) for axis in single), math.prod(others))


def single_positions(node: Node, weight: tuple[Dim, ...]) -> list[int]:
    """The axes of the value along which a convolution works position by position, as one of 1 x 1 does along both.

    Args:
        node: a convolution.
        weight: shape of its weight.
    """
    rank, padding = len(weight) - 2, node.attrs.get("padding", 0)
    stride, pad = (
        spread(option, rank) for option in (node.attrs.get("stride", 1), 0 if isinstance(padding, str) else padding)
    )
    return [2 + i for i in range(rank) if (weight[2 + i], stride[i], pad[i]) == (1, 1, 0)]


def spanned_positions(node: Node, size: tuple[Dim, ...], weight: tuple[Dim, ...]) -> list[int]:
    """The axes of what a convolution reads that its kernel spans from end to end, which it so sums over as a linear layer does.

    Args:
        node: a convolution.
        size: shape of what it reads.
        weight: shape of its weight.
    """
    rank, padding = len(weight) - 2, node.attrs.get("padding", 0)
    pad = spread(padding, rank) if not isinstance(padding, str) else (0 if padding == "valid" else 1,) * rank
    dilation = spread(node.attrs.get("dilation", 1), rank)
    return [
        2 + i for i in range(rank) if (size[2 + i], pad[i], dilation[i]) == (weight[2 + i], 0, 1) and size[2 + i] != 1
    ]


def hold_positions(rules: ChannelRules, operands: Operands, weight: tuple[Dim, ...]) -> None:
    """What is convolved over stays as it is, but for axes whose every position goes by itself, and those that a kernel reads whole.

    Args:
        rules: of the analysis under way.
        operands: a convolution.
        weight: shape of its weight.
    """
    single = single_positions(operands.node, weight)
    plain = lookup(operands.node.op).computed is None and "weight" in operands.params
    spanned = spanned_positions(operands.node, operands.tensor().shape, weight) if plain else []
    for axis in range(2, len(operands.tensor().shape)):
        if axis in single:
            rules.set(axis, rules.layout(0, axis))
        elif axis in spanned:
            rules.consume("weight", axis, rules.layout(0, axis))
        else:
            rules.freeze(rules.layout(0, axis), "it is convolved over, which mixes neighbours")


def convolution_channels(rules: ChannelRules, operands: Operands) -> None:
    """Filters write channels, and their second axis reads them; groups grow as wholes."""
    hold_positions(rules, operands, operands.params["weight"].shape)
    layout = rules.layout(0, 1)
    if groups_of(operands.node, operands.params["weight"].shape) > 1:
        _grouped_channels(rules, operands, layout)
        return
    rules.consume("weight", 1, layout)
    _follow_out(rules, operands, rules.produce("weight", 0))


def _grouped_channels(rules: ChannelRules, operands: Operands, layout: Layout | None) -> None:
    """A grouped convolution grows by whole steps, the smaller of two: a group, or a channel in every group.

    By groups, a group with all that it reads and writes is one channel of one space. By channels, all groups share one
    space of inputs and one of outputs, each channel of which owns an entry in every group; this also fits what is laid
    out so already, as behind a channel shuffle.
    """
    node, weight = operands.node, operands.params["weight"].shape
    width, groups = int(weight[1]), int(node.attrs["groups"])
    written = int(weight[0]) // groups
    if layout is None:
        out = rules.produce("weight", 0)
        rules.freeze(out, f"the {groups} groups that write it read a value that belongs to no channel space")
        _follow_out(rules, operands, out)
        return
    reason = f"its channels are divided among {groups} groups, in whose bounds they do not fall"
    repeated = len(layout) % groups == 0 and layout == layout[: len(layout) // groups] * groups
    if not repeated and width < groups:
        grouped = rules.group(layout, width, reason)
        if grouped is not None:
            rules.measure(("groups",), grouped)
            scaled = tuple(type(s)(s.var, s.size, s.inner * written) for s in grouped)
            rules.follow("weight", 0, scaled, "random")
            _follow_out(rules, operands, scaled)
            return
    parts = rules.divide(layout, [width] * groups, reason)
    rules.consume("weight", 1, rules.unify(parts) if parts[0] is not None else None)
    outputs = rules.divide(rules.produce("weight", 0), [written] * groups, reason)
    part = rules.unify(outputs)
    _follow_out(rules, operands, part * groups if part is not None else None)


def _follow_out(rules: ChannelRules, operands: Operands, out: Layout | None) -> None:
    for role, fresh in _PER_FILTER.items():
        if role in operands.params:
            rules.follow(role, 0, out, fresh)
    rules.set(1, out)


def _depthwise_channels(rules: ChannelRules, operands: Operands) -> None:
    hold_positions(rules, operands, operands.params["weight"].shape)
    layout = rules.layout(0, 1)
    multiplier = int(operands.node.attrs["multiplier"])
    if layout is None:  # depthwise over the network's input
        out = rules.produce("weight", 0)
        rules.freeze(out, "its groups are the fixed channels of the input")
        _follow_out(rules, operands, out)
        return
    scaled = tuple(type(s)(s.var, s.size, s.inner * multiplier) for s in layout)
    rules.follow("weight", 0, scaled, "random")
    _follow_out(rules, operands, scaled)


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    x = emitter.value(node.inputs[0])
    weight = emitter.shape(node.params["weight"])
    rank = len(weight) - 2
    groups = groups_of(node, weight)
    options = {key: node.attrs[key] for key in ("stride", "padding", "dilation") if key in node.attrs}
    mode = node.attrs.get("padding_mode", "zeros")
    if node.module is None:
        bias = emitter.param(node.params["bias"]) if "bias" in node.params else None
        return emitter.call(CONVOLUTIONS[rank], x, emitter.param(node.params["weight"]), bias, groups=groups, **options)

    def build() -> nn.Module:
        return leaf(
            _MODULES[rank],
            weight[1] * groups,
            weight[0],
            weight[2:],
            groups=groups,
            bias="bias" in node.params,
            padding_mode=mode,
            **options,
        )

    return emitter.module(build, x)


def strides_over_few(node: Node, weight: tuple[Dim, ...]) -> bool:
    """Whether a node is a convolution, or a transposed one, of the sort that `NARROW` is about."""
    narrow = len(weight) == 4 and weight[2:] == (1, 1) and int(weight[1]) < NARROW
    return narrow and max(spread(node.attrs.get("stride", 1), 2)) > 1


def convolve(node: Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The convolution that `node` is, of `x` by another `weight`, without its bias."""
    rank = weight.dim() - 2
    if weight.requires_grad and strides_over_few(node, weight.shape):
        x = x.to(memory_format=torch.contiguous_format)  # of one channel too, where `contiguous` leaves it as it lies
    options = {key: node.attrs[key] for key in ("stride", "padding", "dilation") if key in node.attrs}
    mode = node.attrs.get("padding_mode", "zeros")
    if mode != "zeros" and options["padding"] != "valid":
        spans = [d * (k - 1) for d, k in zip(spread(options.get("dilation", 1), rank), weight.shape[2:], strict=True)]
        if options["padding"] == "same":  # an odd span has the larger half behind
            sides = [(span // 2, span - span // 2) for span in spans]
        else:
            sides = [(p, p) for p in spread(options["padding"], rank)]
        x, options["padding"] = F.pad(x, [p for side in reversed(sides) for p in side], mode=mode), 0
    groups = weight.shape[0] // node.attrs["multiplier"] if "multiplier" in node.attrs else node.attrs.get("groups", 1)
    result: torch.Tensor = CONVOLUTIONS[rank](x, weight, None, groups=groups, **options)
    return result


_DEPTHWISE = {f"conv{rank}d": f"depthwise_conv{rank}d" for rank in _MODULES}

for _rank in (1, 2, 3):
    _call = Call(
        signature("input weight bias=None stride=1 padding=0 dilation=1 groups=1"),
        operands=("input",),
        params=("weight", "bias"),
    )
    register(
        OpSpec(
            f"conv{_rank}d",
            infer_convolution,
            convolution_channels,
            _emit,
            positions=convolution_positions,
            apply=convolve,
            starts=of_layer(convolved),
            linear=True,
            modules={_MODULES[_rank]: _read},
            functions={CONVOLUTIONS[_rank]: _call},
        )
    )
    register(
        OpSpec(
            _DEPTHWISE[f"conv{_rank}d"],
            infer_convolution,
            _depthwise_channels,
            _emit,
            positions=convolution_positions,
            apply=convolve,
            starts=of_layer(convolved),
            channelwise=True,
            linear=True,
        )
    )


def specialise(node_op: str, attrs: dict[str, Any], weight: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """A convolution with one group for each input channel becomes the depthwise op, whose groups follow its weight.

    Args:
        node_op: "conv2d" and its like; any other op is left as it is.
        attrs: of the node, with `groups`.
        weight: shape of its weight, [out, in / groups, *kernel].

    >>> specialise("conv2d", {"groups": 8}, (16, 1, 3, 3))
    ('depthwise_conv2d', {'multiplier': 2})
    """
    groups, depthwise = attrs.get("groups", 1), _DEPTHWISE.get(node_op)
    if depthwise is None or groups == 1 or weight[1] != 1:
        return node_op, attrs
    kept = {key: value for key, value in attrs.items() if key != "groups"}
    return depthwise, {**kept, "multiplier": weight[0] // groups}
