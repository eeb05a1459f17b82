"""What each op of ONNX is called as: a line an op, by the functions and methods that a module's forward has."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gngraph.exchange.onnx_layers import (
    MAXIMA,
    MEANS,
    Op,
    conv,
    conv_transpose,
    gemm,
    layer_norm,
    matmul,
    normed,
    over_all,
    pool,
)
from gngraph.exchange.onnx_reader import Flowing, OnnxReader, Weight


def _ints(value: Any) -> list[Any]:
    """A vector of sizes, numbers or values of the network."""
    if isinstance(value, Tensor):
        return [int(entry) for entry in value.reshape(-1).tolist()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _given(r: OnnxReader, name: str, value: Any = None) -> list[Any] | None:
    """An option that was an attribute, and is an input in later versions."""
    own = r.options.get(name, value)
    return None if own is None else _ints(own)


def _number(value: Any) -> Any:
    """A constant of one entry as a number."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _on(function: Callable[..., Any] | str, **named: Any) -> Op:
    """A function of one value; options of the node by torch's names."""

    def op(r: OnnxReader, x: Any) -> Any:
        words = {own: r.options[name] for name, own in named.items() if name in r.options}
        return r.call(function, _tensor(x), **words)

    return op


def _tensor(value: Any) -> Any:
    """Sizes that are numbers, as a constant tensor."""
    plain = not isinstance(value, Flowing | Weight | Tensor)
    return torch.tensor(value) if plain and not any(isinstance(v, Flowing) for v in _ints(value)) else value


def _of_two(function: Callable[[Any, Any], Any], sizes: Callable[[Any, Any], Any] | None = None) -> Op:
    """A function of two values, or of sizes; a constant of one entry is a number."""

    def op(r: OnnxReader, a: Any, b: Any) -> Any:
        if _is_size(a) and _is_size(b):
            both = zip(_ints(a), _ints(b), strict=True)
            made = [r.call(sizes or function, _number(x), _number(y)) for x, y in both]
            return made if isinstance(a, list) or isinstance(b, list) else made[0]
        if not isinstance(a, Flowing | Weight) and not isinstance(b, Flowing | Weight):
            return r.call(function, _tensor(a), _tensor(b))
        return r.call(function, _number(_tensor(a)), _number(_tensor(b)))

    return op


def _is_size(value: Any) -> bool:
    """Whether a value is a size of the network, or a whole number beside one."""
    if isinstance(value, Flowing):
        return isinstance(value.seen[0], int)
    return isinstance(value, int | list) or (
        isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() == 0
    )


def _clip(r: OnnxReader, x: Any, least: Any = None, most: Any = None) -> Any:
    low, high = _number(r.options.get("min", least)), _number(r.options.get("max", most))
    if (low, high) == (None, None):
        return x
    if (low, high) == (0, 6):
        return r.call(F.relu6, x)
    return r.call(F.relu, x) if (low, high) == (0, None) else r.call(torch.clamp, x, low, high)


def _softmax(function: Callable[..., Any]) -> Op:
    def op(r: OnnxReader, x: Any) -> Any:
        axis = r.options.get("axis", -1 if r.opset >= 13 else 1)
        if r.opset < 13 and axis % len(x.shape) != len(x.shape) - 1:
            raise r.refusal("is over several axes at once, as versions before 13 mean it")
        return r.call(function, x, axis)

    return op


def _gelu(r: OnnxReader, x: Any) -> Any:
    return r.call(F.gelu, x, approximate=r.options.get("approximate", "none"))


def _reshape(r: OnnxReader, x: Any, shape: Any) -> Any:
    sizes = _ints(shape)
    if isinstance(x, list) and len(sizes) == 1:  # of sizes, which are in a row already
        return x
    if not isinstance(x, Flowing):
        return r.call(torch.reshape, x, tuple(sizes)) if isinstance(x, Tensor) else _tensor(x).reshape(sizes)
    if not r.options.get("allowzero", 0):
        sizes = [r.size(x, axis) if type(size) is int and size == 0 else size for axis, size in enumerate(sizes)]
    if r.batch is not None and len(sizes) > 1 and type(sizes[0]) is int and sizes[0] == r.batch:
        sizes[0] = r.size(x, 0)
    return r.call("reshape", x, tuple(sizes))


def _expand(r: OnnxReader, x: Any, shape: Any) -> Any:
    return r.call("expand", x, tuple(-1 if type(size) is int and size == 1 else size for size in _ints(shape)))


def _flatten(r: OnnxReader, x: Any) -> Any:
    if r.options.get("axis", 1) != 1:
        raise r.refusal("joins samples of the batch")
    return r.call(torch.flatten, x, 1)


def _squeezed(r: OnnxReader, x: Any, axes: Any = None) -> Any:
    own = _given(r, "axes", axes)
    if isinstance(x, list):
        return x[0]
    for axis in sorted((own or []), reverse=True):
        x = r.call(torch.squeeze, x, axis)
    return x


def _unsqueezed(r: OnnxReader, x: Any, axes: Any = None) -> Any:
    if _is_size(x) and not isinstance(x, Tensor):
        return [x]
    for axis in sorted(_given(r, "axes", axes) or []):
        x = r.call(torch.unsqueeze, x, axis)
    return x


def _concat(r: OnnxReader, *parts: Any) -> Any:
    if any(isinstance(part, list) for part in parts):
        return [entry for part in parts for entry in _ints(part)]
    return r.call(torch.cat, tuple(parts), r.options["axis"])


def _split(r: OnnxReader, x: Any, sizes: Any = None) -> Any:
    axis, count = r.options.get("axis", 0), len(r.node.output)
    own = _given(r, "split", sizes)
    if own is None:
        whole = x.shape[axis]
        each = -(-whole // count)
        own = [min(each, whole - each * number) for number in range(count)]
    made = r.call(torch.split, x, own, axis)
    return [_item(r, made, number) for number in range(count)]


def _item(r: OnnxReader, made: Any, number: int) -> Any:
    return r.call(operator.getitem, made, number)


def _slice(r: OnnxReader, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    start, end = _given(r, "starts", starts) or [], _given(r, "ends", ends) or []
    along = _given(r, "axes", axes) or list(range(len(start)))
    step = _given(r, "steps", steps) or [1] * len(start)
    if isinstance(x, list):
        return x[slice(start[0], end[0], step[0])]
    parts = [slice(None)] * len(x.shape)
    for axis, a, b, c in zip(along, start, end, step, strict=True):
        if type(c) is not int or c < 1:
            raise r.refusal("goes backwards")
        last = None if type(b) is int and b >= 2**31 - 1 else b
        parts[axis] = slice(None if type(a) is int and a == 0 else a, last, None if c == 1 else c)
    return r.call(operator.getitem, x, tuple(parts))


def _gather(r: OnnxReader, x: Any, indices: Any) -> Any:
    axis = r.options.get("axis", 0)
    if isinstance(x, list):
        return x[int(indices)] if indices.dim() == 0 else [x[int(index)] for index in indices]
    if isinstance(x, Weight) and isinstance(indices, Flowing) and axis == 0 and x.value.dim() == 2:
        return r.call(F.embedding, indices, r.parameter(x, f"{r.scope(x.name)}.weight"))
    if isinstance(indices, Tensor) and indices.dim() == 0:
        return r.call(operator.getitem, x, (*[slice(None)] * (axis % len(x.shape)), int(indices)))
    if isinstance(indices, Tensor) and indices.dim() == 1:
        return r.call(torch.index_select, x, axis, indices)
    raise r.refusal("takes entries by numbers that the network computes")


def _cast(r: OnnxReader, x: Any) -> Any:
    if _is_size(x) and not isinstance(x, Tensor | int | list):
        return x  # a size stays one; what is computed from it is a number
    kinds = {1: torch.float32, 11: torch.float64, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    if r.options["to"] not in kinds:
        raise r.refusal("converts to a type that is not known here")
    kind = kinds[r.options["to"]]
    if isinstance(x, list) and any(isinstance(entry, Flowing) for entry in x):
        return x
    return r.call("to", _tensor(x), kind)


def _reduced(function: Callable[..., Any]) -> Op:
    def op(r: OnnxReader, x: Any, axes: Any = None) -> Any:
        along, keep = _given(r, "axes", axes), bool(r.options.get("keepdims", 1))
        if along is None:
            raise r.refusal("is over all axes, samples of the batch among them")
        return r.call(function, x, tuple(along), keep)

    return op


def _pad(r: OnnxReader, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    own, mode = _given(r, "pads", pads) or [], r.options.get("mode", "constant")
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    if axes is not None or mode not in modes:
        raise r.refusal(f"pads by '{mode}' or along some axes alone")
    half = len(own) // 2
    sides = [side for axis in reversed(range(half)) for side in (own[axis], own[half + axis])]
    while len(sides) > 2 and sides[-2:] == [0, 0]:
        sides = sides[:-2]
    fill = _number(value) if value is not None else r.options.get("value", 0.0)
    return r.call(F.pad, x, sides, modes[mode], *([fill] if mode == "constant" else []))


def _resize(r: OnnxReader, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    mode, where = r.options.get("mode", "nearest"), r.options.get("coordinate_transformation_mode", "half_pixel")
    modes = {
        ("nearest", "asymmetric"): "nearest",
        ("linear", "half_pixel"): "bilinear",
        ("linear", "pytorch_half_pixel"): "bilinear",
    }
    found = scales.value if isinstance(scales, Weight) else scales
    known = isinstance(found, Tensor) and found.numel() == 4 and found[:2].eq(1).all()
    if (mode, where) not in modes or not known or len(x.shape) != 4:
        raise r.refusal(f"resizes by '{mode}' and '{where}', or to sizes, which is not known here")
    return r.call(F.interpolate, x, scale_factor=tuple(found[2:].tolist()), mode=modes[mode, where])


def _shape(r: OnnxReader, x: Any) -> Any:
    if isinstance(x, list):
        return [len(x)]
    return [r.size(x, axis) for axis in range(len(x.shape))][r.options.get("start", 0) : r.options.get("end")]


def _filled(r: OnnxReader, shape: Any) -> Any:
    value = r.options.get("value", torch.zeros(1))
    return torch.full(_ints(shape), value.item(), dtype=value.dtype)


def _equal(r: OnnxReader, a: Any, b: Any) -> Any:
    if not all(isinstance(part, list | Tensor) for part in (a, b)):
        raise r.refusal("compares values of the network")
    return [type(x) is int and x == y for x, y in zip(_ints(a), _ints(b), strict=True)]  # what grows is no constant


def _where(r: OnnxReader, condition: Any, a: Any, b: Any) -> Any:
    if not all(isinstance(part, list | Tensor) for part in (condition, a, b)):
        raise r.refusal("chooses among values of the network")
    return [x if chosen else y for chosen, x, y in zip(_ints(condition), _ints(a), _ints(b), strict=True)]


def _constant(r: OnnxReader) -> Any:
    ((name, value),) = r.options.items()
    if name == "value":
        return Weight(r.node.output[0], value.value) if isinstance(value, Weight) else value
    return torch.tensor(value)


ONNX: Mapping[str, Op] = {
    "Add": _of_two(operator.add),
    "AveragePool": pool,
    "BatchNormalization": normed,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": _of_two(operator.truediv, operator.floordiv),
    "Dropout": lambda r, x, *rest: x,
    "Elu": _on(F.elu, alpha="alpha"),
    "Equal": _equal,
    "Exp": _on(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": gemm,
    "GlobalAveragePool": over_all(MEANS),
    "GlobalMaxPool": over_all(MAXIMA),
    "HardSwish": _on(F.hardswish),
    "Identity": lambda r, x: x,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda r, x: r.call(F.leaky_relu, x, r.options.get("alpha", 0.01)),
    "Log": _on(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": matmul,
    "MaxPool": pool,
    "Mod": _of_two(operator.mod),
    "Mul": _of_two(operator.mul),
    "Neg": _on(torch.neg),
    "Pad": _pad,
    "Pow": _of_two(torch.pow),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _on(F.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": _on(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": _on(F.softplus),
    "Split": _split,
    "Sqrt": _on(torch.sqrt),
    "Squeeze": _squeezed,
    "Sub": _of_two(operator.sub),
    "Tanh": _on(torch.tanh),
    "Transpose": lambda r, x: r.call("permute", x, *r.options["perm"]),
    "Unsqueeze": _unsqueezed,
    "Where": _where,
}
"""Op of ONNX -> what it is called as."""
