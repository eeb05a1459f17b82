"""Element-wise functions of one value, and the ones that are the identity in eval mode."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Flag, Node, TensorType, Type
from gngraph.ops.dtypes import given, is_real
from gngraph.ops.rules import all_axes, as_identity, emit_simple, freeze_axes, read_attrs, same_type
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, ReadAttrs, signature
from gngraph.ops.starts import alike
from gngraph.ops.table import register
from gngraph.ops.traits import with_first

# op, module, function, further functions and methods, arguments besides the input
_ACTIVATIONS: list[tuple[str, Any, Callable[..., Any], tuple[Any, ...], str]] = [
    ("relu", nn.ReLU, F.relu, (torch.relu, torch.relu_, "relu", "relu_"), ""),
    ("relu6", nn.ReLU6, F.relu6, (), ""),
    ("leaky_relu", nn.LeakyReLU, F.leaky_relu, (), "negative_slope=0.01"),
    ("elu", nn.ELU, F.elu, (), "alpha=1.0"),
    ("selu", nn.SELU, F.selu, (torch.selu,), ""),
    ("celu", nn.CELU, F.celu, (), "alpha=1.0"),
    ("gelu", nn.GELU, F.gelu, (), "approximate=none"),
    ("silu", nn.SiLU, F.silu, (), ""),
    ("mish", nn.Mish, F.mish, (), ""),
    ("softplus", nn.Softplus, F.softplus, (), "beta=1.0 threshold=20.0"),
    ("hardswish", nn.Hardswish, F.hardswish, (), ""),
    ("hardsigmoid", nn.Hardsigmoid, F.hardsigmoid, (), ""),
    ("hardtanh", nn.Hardtanh, F.hardtanh, (), "min_val=-1.0 max_val=1.0"),
    ("sigmoid", nn.Sigmoid, torch.sigmoid, (F.sigmoid, "sigmoid"), ""),
    ("tanh", nn.Tanh, torch.tanh, (F.tanh, "tanh"), ""),
    ("softsign", nn.Softsign, F.softsign, (), ""),
    ("logsigmoid", nn.LogSigmoid, F.logsigmoid, (), ""),
    ("tanhshrink", nn.Tanhshrink, F.tanhshrink, (), ""),
    ("threshold", nn.Threshold, F.threshold, (torch.threshold,), "threshold value"),
    ("hardshrink", nn.Hardshrink, F.hardshrink, (torch.hardshrink, "hardshrink"), "lambd=0.5"),
    ("softshrink", nn.Softshrink, F.softshrink, (), "lambd=0.5"),
    ("clamp", None, torch.clamp, (torch.clip, "clamp", "clamp_", "clip"), "min=None max=None"),
    ("exp", None, torch.exp, ("exp",), ""),
    ("expm1", None, torch.expm1, ("expm1",), ""),
    ("log", None, torch.log, ("log",), ""),
    ("log1p", None, torch.log1p, ("log1p",), ""),
    ("sqrt", None, torch.sqrt, ("sqrt",), ""),
    ("rsqrt", None, torch.rsqrt, ("rsqrt",), ""),
    ("square", None, torch.square, ("square",), ""),
    ("reciprocal", None, torch.reciprocal, ("reciprocal",), ""),
    ("sin", None, torch.sin, ("sin",), ""),
    ("cos", None, torch.cos, ("cos",), ""),
    ("erf", None, torch.erf, ("erf",), ""),
    ("sign", None, torch.sign, ("sign",), ""),
    ("abs", None, torch.abs, ("abs", operator.abs), ""),
    ("fill", None, torch.fill, (), "value"),
    ("zeros_like", None, torch.zeros_like, (), ""),
    ("ones_like", None, torch.ones_like, (), ""),
    ("full_like", None, torch.full_like, (), "fill_value"),
]
_NONNEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "exp", "abs", "square", "sqrt", "zeros_like", "ones_like")
_LINEAR: list[tuple[str, Any, Callable[..., Any], tuple[Any, ...], str]] = [
    ("neg", None, torch.neg, ("neg", operator.neg), ""),
    ("clone", None, torch.clone, ("clone",), ""),
]
_INPLACE = {
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "silu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "threshold",
}


def _infer_entries(function: Callable[..., Any]) -> Callable[[Operands], Type]:
    """Real floating-point numbers stay so; of others `function` may make fractions, or real ones."""

    def infer(operands: Operands) -> Type:
        x = operands.tensor()
        return x if is_real(x.dtype) else TensorType(given(function, operands, **operands.node.attrs)[0], x.shape)

    return infer


def _register(
    name: str, module: Any, function: Callable[..., Any], others: tuple[Any, ...], options: str, linear: bool
) -> None:
    attrs = tuple(item.partition("=")[0] for item in options.split())
    inplace = name in _INPLACE
    call = Call(signature(f"input {options}{' inplace=False' if inplace else ''}"), ignored=("inplace",))
    register(
        OpSpec(
            name,
            _infer_entries(function),
            all_axes,
            emit_simple(module, function),
            channelwise=True,
            linear=linear,
            nonnegative=with_first if name == "clone" else name in _NONNEGATIVE,
            rearranges=name == "clone",
            modules={module: read_attrs(*attrs)} if module else {},
            functions=dict.fromkeys((function, *others), call),
        )
    )


for _entry in _ACTIVATIONS:
    _register(*_entry, linear=False)
for _entry in _LINEAR:
    _register(*_entry, linear=True)


register(
    OpSpec(
        "contiguous",
        same_type,
        all_axes,
        lambda emitter, node: emitter.method("contiguous", emitter.value(node.inputs[0])),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        functions={"contiguous": Call(signature("input"))},
    )
)


def _emit_identity(emitter: Emitter, node: Node) -> fx.Node:
    x = emitter.value(node.inputs[0])
    return emitter.module(nn.Identity, x) if node.module is not None else x


register(
    OpSpec(
        "identity",
        same_type,
        all_axes,
        _emit_identity,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        modules={nn.Identity: lambda module: {}},
    )
)

_FOLLOWS = Flag("training")
_DROPOUTS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "dropout": (nn.Dropout, F.dropout),
    "dropout1d": (nn.Dropout1d, F.dropout1d),
    "dropout2d": (nn.Dropout2d, F.dropout2d),
    "dropout3d": (nn.Dropout3d, F.dropout3d),
    "alpha_dropout": (nn.AlphaDropout, F.alpha_dropout),
    "feature_alpha_dropout": (nn.FeatureAlphaDropout, F.feature_alpha_dropout),
}


def _emit_dropout(emitter: Emitter, node: Node) -> fx.Node:
    make, function = _DROPOUTS[node.op]
    x, p = emitter.value(node.inputs[0]), node.attrs["p"]
    training = node.attrs.get("training", _FOLLOWS)
    if training == _FOLLOWS and not isinstance(p, Flag):  # a module follows train() and eval() by itself
        return emitter.module(lambda: make(p=p), x)
    return emitter.call(function, x, p=emitter.resolve(p), training=emitter.resolve(training))


for _name, (_module, _function) in _DROPOUTS.items():
    register(
        OpSpec(
            _name,
            same_type,
            all_axes,
            _emit_dropout,
            channelwise=True,
            linear=True,
            nonnegative=False if "alpha" in _name else with_first,
            modules={_module: read_attrs("p")},
            functions={_function: Call(signature("input p=0.5 training=True inplace=False"), ignored=("inplace",))},
            evaluated=as_identity,
        )
    )


_TORCHVISION = "torchvision.ops.stochastic_depth"


def _emit_stochastic_depth(emitter: Emitter, node: Node) -> fx.Node:
    from torchvision.ops import StochasticDepth, stochastic_depth  # here, for its import costs as much as torch's

    x, p, mode = emitter.value(node.inputs[0]), node.attrs["p"], node.attrs["mode"]
    if node.attrs.get("training", _FOLLOWS) == _FOLLOWS:
        return emitter.module(lambda: StochasticDepth(p, mode), x)
    return emitter.call(stochastic_depth, x, p, mode, training=node.attrs["training"])


register(
    OpSpec(
        "stochastic_depth",
        same_type,
        all_axes,
        _emit_stochastic_depth,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        modules={f"{_TORCHVISION}.StochasticDepth": read_attrs("p", "mode")},
        functions={f"{_TORCHVISION}.stochastic_depth": Call(signature("input p mode training=True"))},
        evaluated=as_identity,
    )
)


def _infer_softmax(operands: Operands) -> Type:
    x, dtype = operands.tensor(), operands.node.attrs.get("dtype")
    return x if dtype is None else TensorType(dtype.name, x.shape)


def _softmax_channels(rules: ChannelRules, operands: Operands) -> None:
    dim = operands.node.attrs["dim"]
    rank = len(operands.tensor().shape)
    axes = set(range(rank)) if dim is None else {dim % rank}
    freeze_axes(rules, operands, axes, f"{operands.node.op} normalises across it")


SOFTMAXES = ("softmax", "log_softmax", "softmin")
"""Ops that normalise across the axis of their attribute "dim"."""

for _name, _make, _fn, _functions in (
    ("softmax", nn.Softmax, F.softmax, (torch.softmax, "softmax")),
    ("log_softmax", nn.LogSoftmax, F.log_softmax, (torch.log_softmax, "log_softmax")),
    ("softmin", nn.Softmin, F.softmin, ()),
):
    _images: dict[type[nn.Module] | str, ReadAttrs] = (
        {nn.Softmax2d: lambda module: {"dim": -3}} if _name == "softmax" else {}
    )
    register(
        OpSpec(
            _name,
            _infer_softmax,
            _softmax_channels,
            emit_simple(_make, _fn),
            channelwise=True,
            nonnegative=_name != "log_softmax",
            modules={_make: read_attrs("dim"), **_images},
            functions={
                _fn: Call(signature("input dim=None _stacklevel=3 dtype=None"), ignored=("_stacklevel",)),
                **dict.fromkeys(_functions, Call(signature("input dim dtype=None"))),
            },
        )
    )


def _infer_prelu(operands: Operands) -> Type:
    x, slopes = operands.tensor(), operands.params["weight"].shape[0]
    if slopes != 1 and (len(x.shape) < 2 or x.shape[1] != slopes):
        raise IRError(f"node '{operands.node.name}' (prelu) has {slopes} slopes, which do not fit '{x}'")
    return x


def _prelu_channels(rules: ChannelRules, operands: Operands) -> None:
    """One slope for each entry of axis 1, or one that all share."""
    all_axes(rules, operands)
    if operands.params["weight"].shape[0] != 1:
        rules.follow("weight", 0, rules.layout(0, 1), "zeros")


def _emit_prelu(emitter: Emitter, node: Node) -> fx.Node:
    x, weight = emitter.value(node.inputs[0]), node.params["weight"]
    if node.module is None:
        return emitter.call(F.prelu, x, emitter.param(weight))
    return emitter.module(lambda: nn.PReLU(emitter.shape(weight)[0], device="meta"), x)


register(
    OpSpec(
        "prelu",
        _infer_prelu,
        _prelu_channels,
        _emit_prelu,
        channelwise=True,
        starts={"weight": alike(0.25)},
        modules={nn.PReLU: lambda module: {}},
        functions=dict.fromkeys((F.prelu, "prelu"), Call(signature("input weight"), params=("weight",))),
    )
)


def _infer_glu(operands: Operands) -> Type:
    x = operands.tensor()
    dim = operands.node.attrs["dim"] % len(x.shape)
    length = x.shape[dim]
    if isinstance(length, str) or length % 2:
        raise IRError(f"node '{operands.node.name}' (glu) halves axis {dim} of '{x}', which is not even")
    return TensorType(x.dtype, (*x.shape[:dim], length // 2, *x.shape[dim + 1 :]))


def _glu_channels(rules: ChannelRules, operands: Operands) -> None:
    """The first half is multiplied by a gate from the second; channel c has an entry in each."""
    shape = operands.tensor().shape
    dim = operands.node.attrs["dim"] % len(shape)
    half = int(shape[dim]) // 2
    halves = rules.divide(rules.layout(0, dim), [half, half], "glu cuts through its channels")
    value = rules.unify(halves)
    for axis in range(len(shape)):
        rules.set(axis, value if axis == dim else rules.layout(0, axis))


register(
    OpSpec(
        "glu",
        _infer_glu,
        _glu_channels,
        emit_simple(nn.GLU, F.glu),
        channelwise=True,
        modules={nn.GLU: read_attrs("dim")},
        functions={F.glu: Call(signature("input dim=-1"))},
    )
)
