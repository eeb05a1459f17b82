"""Normalisation layers. BatchNorm keeps channels apart; what normalises across the channel axis freezes it."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Node, Type
from gngraph.ops.rules import freeze_axes, read_attrs, same_type
from gngraph.ops.spec import ChannelRules, Emitter, Operands, OpSpec, register

_FRESH: dict[str, Any] = {"weight": "ones", "bias": "zeros", "running_mean": "zeros", "running_var": "ones"}
_BATCH_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _infer_batch_norm(operands: Operands) -> Type:
    x = operands.tensor()
    for role in _FRESH:
        if role in operands.params and operands.params[role].shape[0] != x.shape[1]:
            size = operands.params[role].shape[0]
            raise IRError(f"node '{operands.node.name}' normalises {x.shape[1]} channels, but its {role} has {size}")
    return x


def _batch_norm_channels(rules: ChannelRules, operands: Operands) -> None:
    layout = rules.layout(0, 1)
    for role, fresh in _FRESH.items():
        if role in operands.params:
            rules.follow(role, 0, layout, fresh)
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis, rules.layout(0, axis))


def _emit_batch_norm(emitter: Emitter, node: Node) -> fx.Node:
    rank = int(node.op[len("batch_norm") : -1])
    make: Any = _BATCH_NORM[rank]
    features = 0  # without parameters torch takes any number of features
    for role in ("weight", "running_mean"):
        if role in node.params:
            features = emitter.shape(node.params[role])[0]

    def build() -> nn.Module:
        module: nn.Module = make(
            features,
            eps=node.attrs["eps"],
            momentum=node.attrs["momentum"],
            affine="weight" in node.params,
            track_running_stats="running_mean" in node.params,
            device="meta",
        )
        return module

    return emitter.module(build, emitter.value(node.inputs[0]))


for _rank, _module in _BATCH_NORM.items():
    register(
        OpSpec(
            f"batch_norm{_rank}d",
            _infer_batch_norm,
            _batch_norm_channels,
            _emit_batch_norm,
            channelwise=True,
            linear=True,
            modules={_module: read_attrs("eps", "momentum")},
        )
    )


def _layer_norm_channels(rules: ChannelRules, operands: Operands) -> None:
    rank = len(operands.tensor().shape)
    axes = set(range(rank - len(operands.node.attrs["normalized_shape"]), rank))
    freeze_axes(rules, operands, axes, "LayerNorm normalises across it")


def _emit_layer_norm(emitter: Emitter, node: Node) -> fx.Node:
    def build() -> nn.Module:
        return nn.LayerNorm(
            node.attrs["normalized_shape"],
            eps=node.attrs["eps"],
            elementwise_affine="weight" in node.params,
            bias="bias" in node.params,
            device="meta",
        )

    return emitter.module(build, emitter.value(node.inputs[0]))


register(
    OpSpec(
        "layer_norm",
        same_type,
        _layer_norm_channels,
        _emit_layer_norm,
        modules={nn.LayerNorm: read_attrs("normalized_shape", "eps")},
    )
)


def _group_norm_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_axes(rules, operands, {1}, "GroupNorm normalises across groups of it")


def _emit_group_norm(emitter: Emitter, node: Node) -> fx.Node:
    def build() -> nn.Module:
        channels = emitter.shape(node.params["weight"])[0] if "weight" in node.params else node.attrs["num_channels"]
        return nn.GroupNorm(
            node.attrs["num_groups"], channels, eps=node.attrs["eps"], affine="weight" in node.params, device="meta"
        )

    return emitter.module(build, emitter.value(node.inputs[0]))


register(
    OpSpec(
        "group_norm",
        same_type,
        _group_norm_channels,
        _emit_group_norm,
        modules={nn.GroupNorm: read_attrs("num_groups", "num_channels", "eps")},
    )
)
