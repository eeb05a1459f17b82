"""Normalisation layers.

What keeps channels apart (BatchNorm, InstanceNorm) lets them grow, and GroupNorm lets whole groups grow. What normalises across
the channel axis is in `gngraph.ops.norm_across`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Flag, Node, Type
from gngraph.ops.leaves import leaf
from gngraph.ops.rules import read_attrs
from gngraph.ops.spec import Call, ChannelRules, Emitter, Layout, Operands, OpSpec, signature
from gngraph.ops.starts import OF_NORM
from gngraph.ops.table import register
from gngraph.ops.traits import BatchStatistics

FRESH: dict[str, Any] = {"weight": "ones", "bias": "zeros", "running_mean": "zeros", "running_var": "ones"}
"""How the parameters of a norm start for a new channel, by role."""
_TENSORS = tuple(FRESH)


def _follow(rules: ChannelRules, operands: Operands, layout: Layout | None) -> None:
    """One entry of each parameter belongs to an entry of the channel axis; every axis keeps its layout."""
    for role, fresh in FRESH.items():
        if role in operands.params:
            rules.follow(role, 0, layout, fresh)
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis, layout if axis == 1 else rules.layout(0, axis))


def _freeze_positions(rules: ChannelRules, operands: Operands, name: str) -> None:
    for axis in range(2, len(operands.tensor().shape)):
        rules.freeze(rules.layout(0, axis), f"{name} normalises across it")


def infer_norm(operands: Operands) -> Type:
    """Type of what a norm gives with an entry of each parameter for each channel, along axis 1."""
    node, x = operands.node, operands.tensor()
    rank = int(node.op[-2]) + 2 if node.op[-2].isdigit() else len(x.shape)
    if len(x.shape) != rank and not (node.op == "batch_norm1d" and len(x.shape) == 2):
        raise IRError(f"node '{node.name}' ({node.op}) normalises '{x}', which has not {rank} axes with the batch")
    for role in FRESH:
        if role in operands.params and operands.params[role].shape[0] != x.shape[1]:
            size = operands.params[role].shape[0]
            raise IRError(f"node '{node.name}' normalises {x.shape[1]} channels, but its {role} has {size}")
    return x


def _features(emitter: Emitter, node: Node) -> int:
    """Number of channels, from the parameters where there are any."""
    for role in ("weight", "running_mean"):
        if role in node.params:
            return emitter.shape(node.params[role])[0]
    return int(node.attrs.get("num_features", 0))


def _as_module(make: Any) -> Callable[[Emitter, Node], fx.Node]:
    def emit(emitter: Emitter, node: Node) -> fx.Node:
        def build() -> nn.Module:
            return leaf(
                make,
                _features(emitter, node),
                eps=node.attrs["eps"],
                momentum=node.attrs["momentum"],
                affine="weight" in node.params,
                track_running_stats="running_mean" in node.params,
            )

        return emitter.module(build, emitter.value(node.inputs[0]))

    return emit


def as_call(function: Callable[..., Any], *leading: str) -> Callable[[Emitter, Node], fx.Node]:
    """Lowering to a call with raw parameters; attributes named in `leading` follow the input, the others go by name."""

    def emit(emitter: Emitter, node: Node) -> fx.Node:
        params = {role: emitter.param(node.params[role]) for role in _TENSORS if role in node.params}
        attrs = {name: emitter.resolve(value) for name, value in node.attrs.items()}
        first = [attrs.pop(name) for name in leading]
        return emitter.call(function, emitter.value(node.inputs[0]), *first, **params, **attrs)

    return emit


# --- BatchNorm


def _batch_norm_channels(rules: ChannelRules, operands: Operands) -> None:
    _follow(rules, operands, rules.layout(0, 1))


_STATISTICS = BatchStatistics()


def _linear(node: Node, positions: frozenset[int]) -> bool:
    """With running statistics, not with those of the batch at hand."""
    return _STATISTICS.run(node)


def _by_running_statistics(node: Node) -> Node:
    """A BatchNorm that stays in eval mode: its statistics neither count batches nor move."""
    if not _STATISTICS.run(node):
        return node
    params = {role: param for role, param in node.params.items() if role in _TENSORS}
    attrs = {"training": False, "momentum": 0.0, "eps": node.attrs["eps"]}
    return replace(node, op="batch_norm", params=params, attrs=attrs, module=None)


_BATCH_NORMS: dict[str, type[nn.Module]] = {
    "batch_norm1d": nn.BatchNorm1d,
    "batch_norm2d": nn.BatchNorm2d,
    "batch_norm3d": nn.BatchNorm3d,
    "batch_norm_synchronised": nn.SyncBatchNorm,
}
for _name, _module in _BATCH_NORMS.items():
    register(
        OpSpec(
            _name,
            infer_norm,
            _batch_norm_channels,
            _as_module(_module),
            channelwise=True,
            linear=_linear,
            statistics=_STATISTICS,
            starts=OF_NORM,
            evaluated=_by_running_statistics,
            modules={_module: read_attrs("eps", "momentum")},
        )
    )


def _infer_batch_norm(operands: Operands) -> Type:
    if operands.node.attrs["training"] not in (False, Flag("training")):
        raise IRError(f"node '{operands.node.name}' (batch_norm) normalises by the batch in eval mode as well")
    return infer_norm(operands)


register(
    OpSpec(
        "batch_norm",
        _infer_batch_norm,
        _batch_norm_channels,
        as_call(F.batch_norm),
        channelwise=True,
        starts=OF_NORM,
        linear=_linear,
        statistics=_STATISTICS,
        functions={
            F.batch_norm: Call(
                signature("input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-5"),
                params=_TENSORS,
            )
        },
    )
)


# --- InstanceNorm


def _infer_instance_norm(operands: Operands) -> Type:
    """As of any norm; what a sample says of itself takes two positions, or torch does not run it."""
    node, kind = operands.node, infer_norm(operands)
    own = node.attrs.get("use_input_stats", True)  # a module does so in train mode, whatever it keeps for eval mode
    if own and operands.tensor().shape[2:].count(1) == len(operands.tensor().shape) - 2:
        raise IRError(f"node '{node.name}' ({node.op}) normalises '{operands.tensor()}', which has one position")
    return kind


def _instance_norm_channels(rules: ChannelRules, operands: Operands) -> None:
    _freeze_positions(rules, operands, "InstanceNorm")
    layout = rules.layout(0, 1)
    _follow(rules, operands, layout)
    if "num_features" in operands.node.attrs:
        rules.measure(("num_features",), layout)


def _as_instance_norm(node: Node) -> Node:
    """An InstanceNorm that stays in eval mode, where it has running statistics."""
    if "running_mean" not in node.params:
        return node
    params = {role: param for role, param in node.params.items() if role in _TENSORS}
    attrs = {"use_input_stats": False, "momentum": 0.0, "eps": node.attrs["eps"]}
    return replace(node, op="instance_norm", params=params, attrs=attrs, module=None)


_INSTANCE_NORMS: dict[str, type[nn.Module]] = {
    "instance_norm1d": nn.InstanceNorm1d,
    "instance_norm2d": nn.InstanceNorm2d,
    "instance_norm3d": nn.InstanceNorm3d,
}
for _name, _module in _INSTANCE_NORMS.items():
    register(
        OpSpec(
            _name,
            _infer_instance_norm,
            _instance_norm_channels,
            _as_module(_module),
            channelwise=True,
            modules={_module: read_attrs("num_features", "eps", "momentum")},
            evaluated=_as_instance_norm,
        )
    )
register(
    OpSpec(
        "instance_norm",
        _infer_instance_norm,
        _instance_norm_channels,
        as_call(F.instance_norm),
        channelwise=True,
        starts=OF_NORM,
        functions={
            F.instance_norm: Call(
                signature(
                    "input running_mean=None running_var=None weight=None bias=None use_input_stats=True momentum=0.1 "
                    "eps=1e-5"
                ),
                params=_TENSORS,
            )
        },
    )
)


# --- GroupNorm


def _infer_group_norm(operands: Operands) -> Type:
    x, groups = operands.tensor(), operands.node.attrs["num_groups"]
    if not isinstance(x.shape[1], int) or x.shape[1] % groups:
        raise IRError(f"node '{operands.node.name}' (group_norm) divides {x.shape[1]} channels among {groups} groups")
    return infer_norm(operands)


def _group_norm_channels(rules: ChannelRules, operands: Operands) -> None:
    """A channel of the space is a group, with every channel in it: a copied group normalises as the first one does."""
    _freeze_positions(rules, operands, "GroupNorm")
    groups, width = operands.node.attrs["num_groups"], int(operands.tensor().shape[1])
    if groups == 1:
        rules.freeze(rules.layout(0, 1), "GroupNorm normalises across it")
    else:
        reason = f"GroupNorm has {groups} groups, in whose bounds its channels do not fall"
        rules.measure(("num_groups",), rules.group(rules.layout(0, 1), width // groups, reason))
    layout = rules.layout(0, 1)
    if "num_channels" in operands.node.attrs:
        rules.measure(("num_channels",), layout)
    _follow(rules, operands, layout)


def _read_group_norm(module: nn.GroupNorm) -> dict[str, Attr]:
    width = {} if module.affine else {"num_channels": module.num_channels}
    return {"num_groups": module.num_groups, "eps": module.eps, **width}


def _emit_group_norm(emitter: Emitter, node: Node) -> fx.Node:
    if node.module is None:
        return as_call(F.group_norm, "num_groups")(emitter, node)

    def build() -> nn.Module:
        affine = "weight" in node.params
        channels = emitter.shape(node.params["weight"])[0] if affine else node.attrs["num_channels"]
        return leaf(nn.GroupNorm, node.attrs["num_groups"], channels, eps=node.attrs["eps"], affine=affine)

    return emitter.module(build, emitter.value(node.inputs[0]))


register(
    OpSpec(
        "group_norm",
        _infer_group_norm,
        _group_norm_channels,
        _emit_group_norm,
        channelwise=True,
        starts=OF_NORM,
        modules={nn.GroupNorm: _read_group_norm},
        functions={
            F.group_norm: Call(signature("input num_groups weight=None bias=None eps=1e-5"), params=("weight", "bias"))
        },
    )
)
