"""Pooling: channel by channel over the spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, TensorType, Type
from gngraph.ops.dtypes import fractional
from gngraph.ops.rules import emit_simple, freeze_axes, freeze_sizes, read_attrs, spread, window_reach
from gngraph.ops.sizes import known_sizes
from gngraph.ops.spec import Call, ChannelRules, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def _sizes(operands: Operands, name: str, rank: int) -> tuple[int, ...]:
    """Those of an attribute, one for each of `rank` axes, be they read off values."""
    sizes = known_sizes(operands.node.attrs[name], operands)
    found = tuple(size for size in (sizes * rank if len(sizes) == 1 else sizes) if isinstance(size, int))
    if len(found) != rank:
        raise IRError(
            f"node '{operands.node.name}' ({operands.node.op}) takes a {name} that is not known when the network is traced"
        )
    return found


def window(operands: Operands) -> TensorType:
    """Type of what a pooling gives, from its windows."""
    node, x = operands.node, operands.tensor()
    rank = int(node.op[-2])
    kernel = _sizes(operands, "kernel_size", rank)
    stride = kernel if node.attrs["stride"] in (None, ()) else _sizes(operands, "stride", rank)
    padding, dilation = spread(node.attrs.get("padding", 0), rank), spread(node.attrs.get("dilation", 1), rank)
    shape: list[Dim] = list(x.shape[:-rank])
    for i, size in enumerate(x.shape[-rank:]):
        reach = window_reach(int(size), kernel[i], dilation[i], padding[i])
        out = reach // stride[i] + 1
        if node.attrs["ceil_mode"]:
            out = -(-reach // stride[i]) + 1
            out -= (out - 1) * stride[i] >= int(size) + padding[i]  # the last window must start inside
        if out < 1:
            raise IRError(
                f"node '{node.name}' ({node.op}) pools '{x}' to nothing; the input is too small for the network"
            )
        shape.append(out)
    return TensorType(x.dtype, tuple(shape))


def _powers(operands: Operands) -> Type:
    """As of a window, but roots of integers are fractions."""
    pooled = window(operands)
    return TensorType(fractional(pooled.dtype), pooled.shape)


def _adaptive(operands: Operands) -> Type:
    node, x = operands.node, operands.tensor()
    rank = int(node.op[-2])
    sizes: tuple[Attr, ...] = known_sizes(node.attrs["output_size"], operands)
    sizes = sizes * rank if len(sizes) == 1 else sizes
    kept = [old if new is None else new for old, new in zip(x.shape[-rank:], sizes, strict=True)]
    return TensorType(x.dtype, (*x.shape[:-rank], *kept))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    rank, spatial = len(operands.tensor().shape), int(operands.node.op[-2])
    freeze_axes(rules, operands, set(range(rank - spatial, rank)), "it is pooled over")
    freeze_sizes(rules, operands, "a pooling takes its size")


def _keeps_sign(node: Node, positions: frozenset[int]) -> bool:
    """Averages and maxima do, but for sums that are divided by a number below 0."""
    return with_first(node, positions) and (node.attrs.get("divisor_override") or 1) > 0


_Entry = tuple[str, Any, Callable[..., Any], tuple[Any, ...], Callable[[Operands], Type], bool, str]
_MAX = "kernel_size stride=None padding=0 dilation=1 ceil_mode=False"
_AVG = "kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True"
_LP = "norm_type kernel_size stride=None ceil_mode=False"
_POOLS: list[_Entry] = [
    ("max_pool1d", nn.MaxPool1d, F.max_pool1d, (torch.max_pool1d,), window, False, _MAX),
    ("max_pool2d", nn.MaxPool2d, F.max_pool2d, (torch.max_pool2d,), window, False, _MAX),
    ("max_pool3d", nn.MaxPool3d, F.max_pool3d, (torch.max_pool3d,), window, False, _MAX),
    ("avg_pool1d", nn.AvgPool1d, F.avg_pool1d, (), window, True, _AVG),
    ("avg_pool2d", nn.AvgPool2d, F.avg_pool2d, (), window, True, _AVG + " divisor_override=None"),
    ("avg_pool3d", nn.AvgPool3d, F.avg_pool3d, (), window, True, _AVG + " divisor_override=None"),
    ("adaptive_avg_pool1d", nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d, (), _adaptive, True, "output_size"),
    ("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, (), _adaptive, True, "output_size"),
    ("adaptive_avg_pool3d", nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d, (), _adaptive, True, "output_size"),
    ("adaptive_max_pool1d", nn.AdaptiveMaxPool1d, F.adaptive_max_pool1d, (), _adaptive, False, "output_size"),
    ("adaptive_max_pool2d", nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d, (), _adaptive, False, "output_size"),
    ("adaptive_max_pool3d", nn.AdaptiveMaxPool3d, F.adaptive_max_pool3d, (), _adaptive, False, "output_size"),
    ("lp_pool1d", nn.LPPool1d, F.lp_pool1d, (), _powers, False, _LP),
    ("lp_pool2d", nn.LPPool2d, F.lp_pool2d, (), _powers, False, _LP),
    ("lp_pool3d", nn.LPPool3d, F.lp_pool3d, (), _powers, False, _LP),
]

for _name, _module, _function, _others, _infer, _linear, _options in _POOLS:
    _attrs = tuple(item.partition("=")[0] for item in _options.split())
    _call = Call(
        signature(f"input {_options} return_indices=False" if "max" in _name else f"input {_options}"),
        sizes=("kernel_size", "stride", "output_size"),
    )
    register(
        OpSpec(
            _name,
            _infer,
            _channels,
            emit_simple(_module, _function),
            channelwise=True,
            linear=_linear,
            nonnegative=_keeps_sign if _infer is not _powers else False,
            modules={_module: read_attrs(*_attrs)},
            functions=dict.fromkeys((_function, *_others), _call),
        )
    )
