"""Norms across the channel axis: LayerNorm, RMSNorm and GroupNorm of one group count whichever there are, others freeze them."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, TensorType, Type
from gngraph.ops.dtypes import fractional
from gngraph.ops.leaves import leaf
from gngraph.ops.norm import FRESH, as_call, infer_norm
from gngraph.ops.rules import all_axes, emit_simple, freeze_axes, freeze_sizes, read_attrs, same_type
from gngraph.ops.sizes import hold_size, known_sizes
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.starts import OF_NORM
from gngraph.ops.table import register
from gngraph.ops.traits import ChannelStatistics


def _normalised(operands: Operands) -> tuple[Dim | None, ...]:
    """The shape that is normalised over; sizes in it that are not known are None."""
    return known_sizes(operands.node.attrs["normalized_shape"], operands)


def _infer_across(operands: Operands) -> Type:
    node, x, shape = operands.node, operands.tensor(), _normalised(operands)
    if x.shape[len(x.shape) - len(shape) :] != shape:
        raise IRError(f"node '{node.name}' ({node.op}) normalises '{x}' over the shape {shape}, which is not its end")
    return x


def _across_channels(rules: ChannelRules, operands: Operands) -> None:
    """One axis normalises whichever channels it has, with an entry of each parameter for each; more are frozen."""
    name = "RMSNorm" if operands.node.op == "rms_norm" else "LayerNorm"
    rank, count = len(operands.tensor().shape), len(_normalised(operands))
    if count > 1:
        freeze_axes(rules, operands, set(range(rank - count, rank)), f"{name} normalises across it and others")
        freeze_sizes(rules, operands, f"{name} normalises over a shape computed from its size")
        return
    all_axes(rules, operands)
    layout = rules.layout(0, rank - 1)
    rules.count(rank - 1)
    for role in ("weight", "bias"):
        if role in operands.params:
            rules.follow(role, 0, layout, FRESH[role])
    path = ("normalized_shape",)
    shape = operands.node.attrs["normalized_shape"]
    hold_size(rules, operands, (*path, 0) if isinstance(shape, tuple) else path, layout)


def _emit_layer_norm(emitter: Emitter, node: Node) -> fx.Node:
    if node.module is None:
        return as_call(F.layer_norm, "normalized_shape")(emitter, node)

    def build() -> nn.Module:
        affine, bias = "weight" in node.params, "bias" in node.params
        shape, eps = node.attrs["normalized_shape"], node.attrs["eps"]
        return leaf(nn.LayerNorm, shape, eps=eps, elementwise_affine=affine, bias=bias)

    return emitter.module(build, emitter.value(node.inputs[0]))


def _emit_rms_norm(emitter: Emitter, node: Node) -> fx.Node:
    if node.module is None:
        return as_call(F.rms_norm, "normalized_shape")(emitter, node)

    def build() -> nn.Module:
        shape, eps = node.attrs["normalized_shape"], node.attrs["eps"]
        return leaf(nn.RMSNorm, shape, eps=eps, elementwise_affine="weight" in node.params)

    return emitter.module(build, emitter.value(node.inputs[0]))


_LAYER_NORM = Call(
    signature("input normalized_shape weight=None bias=None eps=1e-5"),
    params=("weight", "bias"),
    sizes=("normalized_shape",),
)
_RMS_NORM = Call(
    signature("input normalized_shape weight=None eps=None"), params=("weight",), sizes=("normalized_shape",)
)
register(
    OpSpec(
        "layer_norm",
        _infer_across,
        _across_channels,
        _emit_layer_norm,
        counts=ChannelStatistics(),
        starts=OF_NORM,
        channel_axis=-1,
        modules={nn.LayerNorm: read_attrs("normalized_shape", "eps")},
        functions={F.layer_norm: _LAYER_NORM},
    )
)
register(
    OpSpec(
        "rms_norm",
        _infer_across,
        _across_channels,
        _emit_rms_norm,
        counts=ChannelStatistics(centred=False),
        starts=OF_NORM,
        channel_axis=-1,
        modules={nn.RMSNorm: read_attrs("normalized_shape", "eps")},
        functions=dict.fromkeys((F.rms_norm, torch.rms_norm), _RMS_NORM),
    )
)


# --- GroupNorm of one group


def of_one_group(op: str, attrs: dict[str, Attr]) -> tuple[str, dict[str, Attr]]:
    """A GroupNorm of one group becomes the op that counts its channels.

    Args:
        op: "group_norm"; any other is left as it is.
        attrs: of the node.

    >>> of_one_group("group_norm", {"num_groups": 1, "eps": 1e-05})
    ('whole_norm', {'eps': 1e-05})
    """
    if op != "group_norm" or attrs["num_groups"] != 1:
        return op, attrs
    return "whole_norm", {key: value for key, value in attrs.items() if key != "num_groups"}


def _whole_channels(rules: ChannelRules, operands: Operands) -> None:
    """Channels are counted, whichever there are, at all of the positions, which stay."""
    positions = set(range(2, len(operands.tensor().shape)))
    freeze_axes(rules, operands, positions, "GroupNorm normalises across it")
    layout = rules.layout(0, 1)
    rules.count(1)
    for role in ("weight", "bias"):
        if role in operands.params:
            rules.follow(role, 0, layout, FRESH[role])
    if "num_channels" in operands.node.attrs:
        rules.measure(("num_channels",), layout)


def _emit_whole_norm(emitter: Emitter, node: Node) -> fx.Node:
    params = {role: emitter.param(node.params[role]) for role in ("weight", "bias") if role in node.params}
    x, eps = emitter.value(node.inputs[0]), node.attrs["eps"]
    if node.module is None:
        return emitter.call(F.group_norm, x, 1, **params, eps=eps)

    def build() -> nn.Module:
        affine = "weight" in node.params
        channels = emitter.shape(node.params["weight"])[0] if affine else node.attrs["num_channels"]
        return leaf(nn.GroupNorm, 1, channels, eps=eps, affine=affine)

    return emitter.module(build, x)


register(
    OpSpec(
        "whole_norm",
        infer_norm,
        _whole_channels,
        _emit_whole_norm,
        counts=ChannelStatistics(whole=True),
        starts=OF_NORM,
    )
)


# --- others


def _response_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_axes(rules, operands, {1}, "LocalResponseNorm normalises across neighbours in it")


register(
    OpSpec(
        "local_response_norm",
        lambda operands: TensorType(fractional(operands.tensor().dtype), operands.tensor().shape),
        _response_channels,
        emit_simple(nn.LocalResponseNorm, F.local_response_norm),
        channelwise=True,
        modules={nn.LocalResponseNorm: read_attrs("size", "alpha", "beta", "k")},
        functions={F.local_response_norm: Call(signature("input size alpha=1e-4 beta=0.75 k=1.0"))},
    )
)


def _normalize_channels(rules: ChannelRules, operands: Operands) -> None:
    rank, dim = len(operands.tensor().shape), operands.node.attrs["dim"]
    axes = {axis % rank for axis in ((dim,) if isinstance(dim, int) else dim)}
    freeze_axes(rules, operands, axes, "normalize divides by its norm")


register(
    OpSpec(
        "normalize",
        same_type,
        _normalize_channels,
        emit_simple(None, F.normalize),
        channelwise=True,
        functions={F.normalize: Call(signature("input p=2.0 dim=1 eps=1e-12 out=None"), ignored=("out",))},
    )
)
