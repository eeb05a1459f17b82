"""Layers of ONNX that have weights or windows, as calls of torch's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from gngraph.exchange.onnx_reader import OnnxReader, Weight
from gngraph.exchange.program import batch_norm

Op = Callable[..., Any]
"""Called with the reader, which has the node and its options, and the inputs; gives what the node gives."""

MEANS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
MAXIMA = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
"""Pools of all positions, by the axes of these."""

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _padded(r: OnnxReader, x: Any, pads: list[int], value: float = 0.0) -> tuple[Any, list[int]]:
    """What is padded alike on both sides is padded by the op; other pads come before it."""
    if r.options.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise r.refusal(f"pads by '{r.options['auto_pad']}'")
    half = len(pads) // 2
    if pads[:half] == pads[half:]:
        return x, pads[:half]
    sides = [side for axis in reversed(range(half)) for side in (pads[axis], pads[half + axis])]
    return r.call(F.pad, x, sides, value=value), [0] * half


def conv(r: OnnxReader, x: Any, w: Any, b: Any = None) -> Any:
    """A convolution with weights of its own.

    Args:
        r: the reader.
        x: what the layer reads.
        w: its weights.
        b: its bias.
    """
    weight, named = r.weight(w), r.scope(w.name, *([b.name] if isinstance(b, Weight) else []))
    rank = weight.value.dim() - 2
    x, padding = _padded(r, x, r.options.get("pads", [0] * 2 * rank))
    bias = None if b is None else r.parameter(r.weight(b), f"{named}.bias")
    steps, apart = (tuple(r.options.get(name, [1] * rank)) for name in ("strides", "dilations"))
    return r.call(
        _CONV[rank],
        x,
        r.parameter(weight, f"{named}.weight"),
        bias,
        steps,
        tuple(padding),
        apart,
        r.options.get("group", 1),
    )


def conv_transpose(r: OnnxReader, x: Any, w: Any, b: Any = None) -> Any:
    """A transposed convolution with weights of its own.

    Args:
        r: the reader.
        x: what the layer reads.
        w: its weights.
        b: its bias.
    """
    weight, named = r.weight(w), r.scope(w.name)
    rank = weight.value.dim() - 2
    pads, more = r.options.get("pads", [0] * 2 * rank), r.options.get("output_padding", [0] * rank)
    if "output_shape" in r.options or pads[:rank] != pads[rank:] or r.options.get("auto_pad", "NOTSET") != "NOTSET":
        raise r.refusal("names its output's shape, or pads one side more than the other")
    bias = None if b is None else r.parameter(r.weight(b), f"{named}.bias")
    steps, apart = (tuple(r.options.get(name, [1] * rank)) for name in ("strides", "dilations"))
    own = r.parameter(weight, f"{named}.weight")
    return r.call(
        _TRANSPOSED[rank], x, own, bias, steps, tuple(pads[:rank]), tuple(more), r.options.get("group", 1), apart
    )


def gemm(r: OnnxReader, x: Any, w: Any, b: Any = None) -> Any:
    """A linear layer.

    Args:
        r: the reader.
        x: what the layer reads.
        w: its weights.
        b: its bias.
    """
    if r.options.get("alpha", 1.0) != 1 or r.options.get("beta", 1.0) != 1 or r.options.get("transA", 0):
        raise r.refusal("scales or turns what it multiplies")
    return _linear(r, x, r.weight(w), None if b is None else r.weight(b), turned=not r.options.get("transB", 0))


def _linear(r: OnnxReader, x: Any, weight: Weight, bias: Weight | None, *, turned: bool) -> Any:
    named = r.scope(weight.name, *([] if bias is None else [bias.name]))
    own = r.parameter(weight, f"{named}.weight", turned=turned)
    return r.call(F.linear, x, own, *([] if bias is None else [r.parameter(bias, f"{named}.bias")]))


def matmul(r: OnnxReader, x: Any, w: Any) -> Any:
    """A linear layer where what is multiplied by is a weight, with what is added to it; else a product.

    Args:
        r: the reader.
        x: what the layer reads.
        w: what it is multiplied by.
    """
    if not isinstance(w, Weight) or w.value.dim() != 2:
        return r.call(torch.matmul, x, w)
    bias = r.bias_behind(w.value.shape[1])
    made = _linear(r, x, w, bias, turned=True)
    if bias is not None:
        r.leave_out_reader(made)
    return made


def normed(r: OnnxReader, x: Any, *parts: Any) -> Any:
    """A norm over the batch as a module.

    Args:
        r: the reader.
        x: what the layer reads.
        parts: weight, bias, running mean and variance.
    """
    if r.options.get("training_mode", 0):
        raise r.refusal("is in train mode")
    weights = [r.weight(part) for part in parts]
    momentum = 1 - r.options.get("momentum", 0.9)
    norm = batch_norm(len(x.shape), tuple(own.value for own in weights), r.options.get("epsilon", 1e-5), momentum)
    return r.through(r.scope(*(own.name for own in weights)), norm, x)


def layer_norm(r: OnnxReader, x: Any, w: Any, b: Any = None) -> Any:
    """A norm of each sample.

    Args:
        r: the reader.
        x: what the layer reads.
        w: its weights.
        b: its bias.
    """
    named, shape = r.scope(r.weight(w).name), tuple(w.value.shape)
    if r.options.get("axis", -1) % len(x.shape) != len(x.shape) - len(shape):
        raise r.refusal("normalises other axes than it weighs")
    bias = None if b is None else r.parameter(r.weight(b), f"{named}.bias")
    return r.call(F.layer_norm, x, shape, r.parameter(w, f"{named}.weight"), bias, r.options.get("epsilon", 1e-5))


def pool(r: OnnxReader, x: Any) -> Any:
    """A pool by windows."""
    size = tuple(r.options["kernel_shape"])
    rank, mean, ceil = len(size), r.node.op_type == "AveragePool", bool(r.options.get("ceil_mode", 0))
    counted = bool(r.options.get("count_include_pad", 0))
    pads = r.options.get("pads", [0] * 2 * rank)
    if mean and not counted and pads[:rank] != pads[rank:]:
        raise r.refusal("pads one side more than the other")
    x, padding = _padded(r, x, pads, 0.0 if mean else float("-inf"))
    steps, apart = (tuple(r.options.get(name, [1] * rank)) for name in ("strides", "dilations"))
    if mean:
        return r.call(_MEAN[rank], x, size, steps, tuple(padding), ceil, counted)
    return r.call(_MAX[rank], x, size, steps, tuple(padding), apart, ceil)


def over_all(functions: Mapping[int, Callable[..., Any]]) -> Op:
    """A pool of all positions, by one of `functions`."""
    return lambda r, x: r.call(functions[len(x.shape) - 2], x, 1)
