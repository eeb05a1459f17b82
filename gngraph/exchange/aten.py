"""What each op of a torch.export graph is called as: a line an op, by the functions and methods that a module's forward has."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.exchange.program import Program

Emit = Callable[..., fx.Node]
"""Called with the program, and the arguments of the op by position and name; gives the call."""


def plain(function: Callable[..., Any] | str, most: int = 99, **fixed: Any) -> Emit:
    """The same arguments, the first `most` of them, to a function or a method; those of `fixed` by name.

    Args:
        function: of torch, or the name of a method.
        most: of the arguments by position.
        fixed: further ones by name.
    """
    return lambda program, *args, **named: program.call(function, *args[:most], **(named | fixed))


def _reshaped(program: Program, x: Any, shape: Any) -> fx.Node:
    return program.call("reshape", x, program.any_batch(x, shape))


def _expanded(program: Program, x: Any, shape: Any, implicit: bool = False) -> fx.Node:
    return program.call("expand", x, program.any_batch(x, shape))


def _layer_norm(program: Program, x: Any, shape: Any, weight: Any = None, bias: Any = None, *rest: Any) -> fx.Node:
    return program.call(F.layer_norm, x, tuple(shape), weight, bias, rest[0] if rest else 1e-5)


def _group_norm(program: Program, x: Any, groups: int, weight: Any = None, bias: Any = None, *rest: Any) -> fx.Node:
    return program.call(F.group_norm, x, groups, weight, bias, rest[0] if rest else 1e-5)


def _embedding(program: Program, weight: Any, indices: Any, padding: int = -1, *rest: Any) -> fx.Node:
    return program.call(F.embedding, indices, weight, None if padding < 0 else padding)


def _sliced(program: Program, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> fx.Node:
    last = None if isinstance(end, int) and end >= 2**31 else end
    return program.call(operator.getitem, x, (*[slice(None)] * dim, slice(start, last, None if step == 1 else step)))


def _selected(program: Program, x: Any, dim: int, index: Any) -> fx.Node:
    return program.call(operator.getitem, x, (*[slice(None)] * dim, index))


def _dropout(program: Program, x: Any, p: float, train: bool) -> fx.Node:
    return program.module("dropout", nn.Dropout(p), x)


def _permuted(program: Program, x: Any, dims: Any) -> fx.Node:
    return program.call("permute", x, *dims)


_BOTH = (
    "relu",
    "silu",
    "sigmoid",
    "tanh",
    "hardtanh",
    "leaky_relu",
    "elu",
    "hardswish",
    "hardsigmoid",
    "mish",
    "relu6",
)
_IN_PLACE: Mapping[str, Callable[..., Any]] = {"relu": torch.relu_, "sigmoid": torch.sigmoid_, "tanh": torch.tanh_}

ATEN: Mapping[str, Emit] = {
    **{f"{name}.default": plain(getattr(F, name)) for name in _BOTH},
    **{
        f"{name}_.default": plain(_IN_PLACE.get(name, getattr(F, name)), inplace=True)
        for name in _BOTH
        if name not in _IN_PLACE
    },
    **{f"{name}_.default": plain(function) for name, function in _IN_PLACE.items()},
    **{
        f"conv{rank}d.{kind}": plain(getattr(F, f"conv{rank}d"))
        for rank in (1, 2, 3)
        for kind in ("default", "padding")
    },
    **{
        f"conv_transpose{rank}d.{'input' if rank > 1 else 'default'}": plain(getattr(F, f"conv_transpose{rank}d"))
        for rank in (1, 2, 3)
    },
    **{f"max_pool{rank}d.default": plain(getattr(F, f"max_pool{rank}d")) for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d.default": plain(getattr(F, f"avg_pool{rank}d")) for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d.default": plain(getattr(F, f"adaptive_avg_pool{rank}d")) for rank in (1, 2, 3)},
    **{f"{name}.Tensor": plain(getattr(operator, name)) for name in ("add", "sub", "mul")},
    **{f"{name}_.Tensor": plain(f"{name}_") for name in ("add", "sub", "mul", "div")},
    "div.Tensor": plain(operator.truediv),
    "pow.Tensor_Scalar": plain(torch.pow),
    **{f"{name}.default": plain(getattr(torch, name)) for name in ("neg", "exp", "sqrt", "rsqrt", "abs", "log")},
    **{f"{name}.default": plain(getattr(torch, name)) for name in ("matmul", "bmm", "clamp")},
    "linear.default": plain(F.linear),
    "gelu.default": plain(F.gelu),
    "softplus.default": plain(F.softplus),
    "prelu.default": plain(F.prelu),
    "softmax.int": plain(torch.softmax, 2),
    "log_softmax.int": plain(torch.log_softmax, 2),
    "scaled_dot_product_attention.default": plain(F.scaled_dot_product_attention),
    "layer_norm.default": _layer_norm,
    "group_norm.default": _group_norm,
    "embedding.default": _embedding,
    "dropout.default": _dropout,
    "dropout_.default": _dropout,
    "flatten.using_ints": plain(torch.flatten),
    "reshape.default": _reshaped,
    "view.default": _reshaped,
    "expand.default": _expanded,
    "unflatten.int": plain("unflatten"),
    "permute.default": _permuted,
    "transpose.int": plain(torch.transpose),
    "t.default": plain("t"),
    "unsqueeze.default": plain(torch.unsqueeze),
    "squeeze.dim": plain(torch.squeeze),
    "select.int": _selected,
    "slice.Tensor": _sliced,
    "contiguous.default": plain("contiguous", 1),
    "clone.default": plain("clone", 1),
    "detach.default": plain("detach"),
    "unbind.int": plain(torch.unbind),
    "chunk.default": plain(torch.chunk),
    "split.Tensor": plain(torch.split),
    "split_with_sizes.default": plain(torch.split),
    "cat.default": plain(torch.cat),
    "stack.default": plain(torch.stack),
    "mean.dim": plain(torch.mean),
    "sum.dim_IntList": plain(torch.sum),
    "amax.default": plain(torch.amax),
    "pad.default": plain(F.pad),
    "upsample_nearest2d.vec": lambda program, x, size, scales: program.call(F.interpolate, x, size, scales, "nearest"),
    "upsample_bilinear2d.vec": lambda program, x, size, corners, scales: program.call(
        F.interpolate, x, size, scales, "bilinear", corners
    ),
    "channel_shuffle.default": plain(F.channel_shuffle),
    "pixel_shuffle.default": plain(F.pixel_shuffle),
    "sym_size.int": plain("size"),
}
"""Op of aten, with its overload -> what it is called as; the norm over a batch is apart (`gngraph.exchange.pt2`)."""

SIZES: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv", "pow")
}
"""What computes sizes."""

NOTHING = frozenset(
    {"_assert_scalar.default", "_assert_tensor_metadata.default", "sym_constrain_range_for_size.default"}
)
"""Ops that check what is known by now."""
