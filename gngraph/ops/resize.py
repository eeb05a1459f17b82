"""Ops that change spatial sizes without weights: interpolation, padding, pixel shuffles and the channel shuffle."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Node, TensorType, Type
from gngraph.ops.rules import emit_simple, freeze_axes, freeze_sizes, read_attrs
from gngraph.ops.sizes import hold_size, known_size, known_sizes
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first

# --- interpolation


def _infer_interpolate(operands: Operands) -> Type:
    node, x = operands.node, operands.tensor()
    old = x.shape[2:]
    if node.attrs["size"] is not None:
        sizes = known_sizes(node.attrs["size"], operands)
        sizes = sizes * len(old) if len(sizes) == 1 else sizes
    else:
        scale = node.attrs["scale_factor"]
        scales = scale if isinstance(scale, tuple) else (scale,) * len(old)
        sizes = tuple(math.floor(int(size) * by) for size, by in zip(old, scales, strict=True))
    if len(sizes) != len(old) or not all(isinstance(size, int) for size in sizes):
        raise IRError(f"node '{node.name}' (interpolate) takes a size that is not known when the network is traced")
    return TensorType(x.dtype, (*x.shape[:2], *(size for size in sizes if size is not None)))


def _interpolate_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_axes(rules, operands, set(range(2, len(operands.tensor().shape))), "it is interpolated over")
    freeze_sizes(rules, operands, "an interpolation takes its size")


def _emit_interpolate(emitter: Emitter, node: Node) -> fx.Node:
    x = emitter.value(node.inputs[0])
    if node.module is not None:
        return emitter.module(lambda: nn.Upsample(**node.attrs), x)
    options = {name: emitter.resolve(attr) for name, attr in node.attrs.items()}
    return emitter.call(F.interpolate, x, **options)


_UPSAMPLE = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
register(
    OpSpec(
        "interpolate",
        _infer_interpolate,
        _interpolate_channels,
        _emit_interpolate,
        channelwise=True,
        linear=True,
        modules={nn.Upsample: read_attrs(*_UPSAMPLE)},
        functions={
            F.interpolate: Call(
                signature(
                    "input size=None scale_factor=None mode=nearest align_corners=None recompute_scale_factor=None "
                    "antialias=False"
                ),
                sizes=("size",),
            )
        },
    )
)

# --- padding

_PADS: dict[str, tuple[type[nn.Module], ...]] = {
    "constant": (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}
_ZERO_PADS: tuple[type[nn.Module], ...] = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)


def _padded(operands: Operands) -> dict[int, int]:
    """Axis -> entries by which padding lengthens it; the attribute counts axes from the last."""
    node, rank = operands.node, len(operands.tensor().shape)
    pad = node.attrs["pad"]
    sizes = [known_size(entry, operands) for entry in pad]
    if len(pad) % 2 or len(pad) > 2 * rank or not all(isinstance(size, int) for size in sizes):
        raise IRError(f"node '{node.name}' (pad) pads by {pad}, which does not fit '{operands.tensor()}'")
    pairs = {rank - 1 - i: slice(2 * i, 2 * i + 2) for i in range(len(pad) // 2)}
    return {
        axis: sum(int(size) for size in sizes[pair] if size is not None)
        for axis, pair in pairs.items()
        if pad[pair] != (0, 0)
    }


def _infer_pad(operands: Operands) -> Type:
    x, grown = operands.tensor(), _padded(operands)
    return TensorType(x.dtype, tuple(int(d) + grown[i] if i in grown else d for i, d in enumerate(x.shape)))


def _pad_channels(rules: ChannelRules, operands: Operands) -> None:
    """Channels of a constant, as many as are wanted, lie beside those that are padded with it; others are copies, which stay."""
    rank, pad = len(operands.tensor().shape), operands.node.attrs["pad"]
    for axis in range(rank):
        layout, at = rules.layout(0, axis), 2 * (rank - 1 - axis)
        around = pad[at : at + 2]
        if layout is not None and any(entry != 0 for entry in around):
            if operands.node.attrs["mode"] == "constant" and all(
                isinstance(entry, int) and entry >= 0 for entry in around
            ):
                before, behind = (rules.blank(entry) if entry else () for entry in around)
                hold_size(rules, operands, ("pad", at), before)
                hold_size(rules, operands, ("pad", at + 1), behind)
                layout = (*before, *layout, *behind)
            else:
                rules.freeze(layout, "it is padded by entries of no channel")
        rules.set(axis, layout)
    freeze_sizes(rules, operands, "a padding is computed from its size")


def _read_pad(mode: str) -> Any:
    def read(module: Any) -> dict[str, Attr]:
        value = {"value": module.value} if hasattr(module, "value") else {}
        return {"pad": tuple(module.padding), "mode": mode, **value}

    return read


def _emit_pad(emitter: Emitter, node: Node) -> fx.Node:
    x, mode, value = emitter.value(node.inputs[0]), str(node.attrs["mode"]), node.attrs.get("value")
    pad = emitter.resolve(node.attrs["pad"])
    if node.module is None:
        return emitter.call(F.pad, x, pad, mode=mode, value=value)
    at = len(pad) // 2 - 1
    make: Any = _ZERO_PADS[at] if mode == "constant" and value == 0.0 else _PADS[mode][at]
    options = (pad, value) if make in _PADS["constant"] else (pad,)
    return emitter.module(lambda: make(*options), x)


register(
    OpSpec(
        "pad",
        _infer_pad,
        _pad_channels,
        _emit_pad,
        channelwise=True,
        linear=True,
        modules={module: _read_pad(mode) for mode, modules in _PADS.items() for module in modules},
        functions={F.pad: Call(signature("input pad mode=constant value=None"), sizes=("pad",))},
    )
)

# --- windows


def _infer_windows(operands: Operands) -> Type:
    x, attrs = operands.tensor(), operands.node.attrs
    axis, size, step = attrs["dimension"] % len(x.shape), attrs["size"], attrs["step"]
    length = x.shape[axis]
    if not all(isinstance(number, int) for number in (length, size, step)) or not 0 < size <= length or step < 1:
        raise IRError(
            f"node '{operands.node.name}' (windows) cannot cut windows of {size} in steps of {step} out of '{length}'"
        )
    return TensorType(x.dtype, (*x.shape[:axis], (length - size) // step + 1, *x.shape[axis + 1 :], size))


def _windows_channels(rules: ChannelRules, operands: Operands) -> None:
    """What windows are cut of stays; they stand behind all other axes."""
    axis = operands.node.attrs["dimension"] % len(operands.tensor().shape)
    freeze_axes(rules, operands, {axis}, "windows are cut out of it")
    rules.set(axis, None)


def _emit_windows(emitter: Emitter, node: Node) -> fx.Node:
    numbers = (node.attrs[name] for name in ("dimension", "size", "step"))
    return emitter.method("unfold", emitter.value(node.inputs[0]), *numbers)


register(
    OpSpec(
        "windows",
        _infer_windows,
        _windows_channels,
        _emit_windows,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        functions={"unfold": Call(signature("input dimension size step"))},
    )
)

# --- shuffles


def _upscale(operands: Operands) -> int:
    return int(operands.node.attrs["upscale_factor"])


def _infer_pixel_shuffle(operands: Operands) -> Type:
    x, r = operands.tensor(), _upscale(operands)
    *batch, channels, height, width = x.shape
    if int(channels) % r**2:
        raise IRError(f"node '{operands.node.name}' (pixel_shuffle) cannot divide {channels} channels by {r**2}")
    return TensorType(x.dtype, (*batch, int(channels) // r**2, int(height) * r, int(width) * r))


def _pixel_shuffle_channels(rules: ChannelRules, operands: Operands) -> None:
    """Runs of r*r channels become one channel of r times the height and width."""
    rank = len(operands.tensor().shape)
    freeze_axes(rules, operands, {rank - 2, rank - 1}, "it is shuffled with channels")
    reason = "pixel_shuffle takes runs of channels, in whose bounds its channels do not fall"
    rules.set(rank - 3, rules.group(rules.layout(0, rank - 3), _upscale(operands) ** 2, reason))


register(
    OpSpec(
        "pixel_shuffle",
        _infer_pixel_shuffle,
        _pixel_shuffle_channels,
        emit_simple(nn.PixelShuffle, F.pixel_shuffle),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        modules={nn.PixelShuffle: read_attrs("upscale_factor")},
        functions={F.pixel_shuffle: Call(signature("input upscale_factor"))},
    )
)


def _infer_pixel_unshuffle(operands: Operands) -> Type:
    x, r = operands.tensor(), int(operands.node.attrs["downscale_factor"])
    *batch, channels, height, width = x.shape
    return TensorType(x.dtype, (*batch, int(channels) * r**2, int(height) // r, int(width) // r))


def _pixel_unshuffle_channels(rules: ChannelRules, operands: Operands) -> None:
    rank, r = len(operands.tensor().shape), int(operands.node.attrs["downscale_factor"])
    freeze_axes(rules, operands, {rank - 2, rank - 1}, "it is shuffled with channels")
    layout = rules.layout(0, rank - 3)
    rules.set(rank - 3, layout and tuple(type(s)(s.var, s.size, s.inner * r**2) for s in layout))


register(
    OpSpec(
        "pixel_unshuffle",
        _infer_pixel_unshuffle,
        _pixel_unshuffle_channels,
        emit_simple(nn.PixelUnshuffle, F.pixel_unshuffle),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        modules={nn.PixelUnshuffle: read_attrs("downscale_factor")},
        functions={F.pixel_unshuffle: Call(signature("input downscale_factor"))},
    )
)


def _shuffle_channels(rules: ChannelRules, operands: Operands) -> None:
    """Channel j of each of the groups comes to stand beside channel j of the others: one channel of one space."""
    x, groups = operands.tensor(), int(operands.node.attrs["groups"])
    width = int(x.shape[1]) // groups
    parts = rules.divide(rules.layout(0, 1), [width] * groups, "a channel shuffle cuts through its channels")
    part = rules.unify(parts)
    for axis in range(len(x.shape)):
        rules.set(axis, rules.layout(0, axis))
    rules.set(1, part and tuple(type(s)(s.var, s.size, s.inner * groups) for s in part))


register(
    OpSpec(
        "channel_shuffle",
        lambda operands: operands.tensor(),
        _shuffle_channels,
        emit_simple(nn.ChannelShuffle, torch.channel_shuffle),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        modules={nn.ChannelShuffle: read_attrs("groups")},
        functions={torch.channel_shuffle: Call(signature("input groups"))},
    )
)
