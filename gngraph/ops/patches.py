"""Patches of maps in rows, and maps of such: `F.unfold` and `F.fold`, where a channel has an entry for each place of the kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Dim, TensorType, Type
from gngraph.ops.rules import emit_simple, read_attrs, spread, window_counts
from gngraph.ops.sizes import hold_sizes, known_sizes, scaled
from gngraph.ops.spec import Call, ChannelRules, Operands, OpSpec, signature
from gngraph.ops.table import register

_OPTIONS = "kernel_size dilation=1 padding=0 stride=1"
_WINDOW = ("kernel_size", "stride", "dilation", "padding")


def _kernel(operands: Operands) -> int:
    """Places of the kernel."""
    return math.prod(spread(operands.node.attrs["kernel_size"], 2))


def _positions(operands: Operands, sizes: Sequence[Dim]) -> int:
    """How many patches a map of these sizes has."""
    return math.prod(window_counts(sizes, *(spread(operands.node.attrs[name], 2) for name in _WINDOW)))


def _infer_unfold(operands: Operands) -> Type:
    x = operands.tensor()
    if len(x.shape) not in (3, 4):
        raise IRError(f"node '{operands.node.name}' (unfold) needs maps of channels, not '{x}'")
    *batch, channels, height, width = x.shape
    return TensorType(x.dtype, (*batch, int(channels) * _kernel(operands), _positions(operands, (height, width))))


def _unfold_channels(rules: ChannelRules, operands: Operands) -> None:
    channels = len(operands.tensor().shape) - 3
    for axis in (channels + 1, channels + 2):
        rules.freeze(rules.layout(0, axis), "patches are cut along it")
    for axis in range(channels):
        rules.set(axis, rules.layout(0, axis))
    rules.set(channels, scaled(rules.layout(0, channels) or (), _kernel(operands)) or None)


def _infer_fold(operands: Operands) -> Type:
    x, known = operands.tensor(), known_sizes(operands.node.attrs["output_size"], operands)
    sizes = [size for size in (known * 2 if len(known) == 1 else known) if isinstance(size, int)]
    if len(sizes) != 2:
        raise IRError(f"node '{operands.node.name}' (fold) gives a size that is not known when the network is traced")
    *batch, entries, positions = x.shape
    if len(batch) > 1 or int(entries) % _kernel(operands) or _positions(operands, sizes) != positions:
        raise IRError(f"node '{operands.node.name}' (fold) cannot put '{x}' together to maps of {tuple(sizes)}")
    return TensorType(x.dtype, (*batch, int(entries) // _kernel(operands), *sizes))


def _fold_channels(rules: ChannelRules, operands: Operands) -> None:
    channels = len(operands.tensor().shape) - 2
    rules.freeze(rules.layout(0, channels + 1), "patches are put together along it")
    for axis in range(channels):
        rules.set(axis, rules.layout(0, axis))
    layout = rules.group(rules.layout(0, channels), _kernel(operands), "patches cut through its channels")
    rules.set(channels, layout)
    hold_sizes(rules, operands, "output_size")


_ALL: list[tuple[str, Any, Any, Any, str, Any]] = [
    ("unfold", nn.Unfold, F.unfold, _infer_unfold, _OPTIONS, _unfold_channels),
    ("fold", nn.Fold, F.fold, _infer_fold, f"output_size {_OPTIONS}", _fold_channels),
]
for _name, _module, _function, _infer, _text, _channels in _ALL:
    register(
        OpSpec(
            _name,
            _infer,
            _channels,
            emit_simple(_module, _function),
            channelwise=True,
            linear=True,
            modules={_module: read_attrs(*(item.partition("=")[0] for item in _text.split()))},
            functions={_function: Call(signature(f"input {_text}"), sizes=("output_size",))},
        )
    )
