"""Functions that work along some axes, each line of entries by itself, and may change its length: Fourier transforms, differences.

Along these axes channels are frozen; those of all others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import BATCH, Attr, Dim, Node, TensorType, Type
from gngraph.ir.types import dtype_name, dtype_of
from gngraph.ops.sizes import factors, hold_sizes, known_size, known_sizes, product
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register

_SAMPLES = (2, 3)
"""Sizes of an axis of samples for which the shapes of values are asked."""

_ONE, _MORE = "n=None dim=-1 norm=None", "s=None dim=None norm=None"
_OF_TWO = ("fft2", "ifft2", "rfft2", "irfft2")
"""Ops that work along the last two axes where nothing else is said."""

_SIZES: dict[str, Callable[[Attr, Operands], Any]] = {"n": known_size, "s": known_sizes}
"""Arguments that say how many entries lines get, and how their numbers are read: one, or one an axis."""

# op, function, methods, arguments besides the input, whether it is linear
_FUNCTIONS: list[tuple[str, Callable[..., Any], tuple[str, ...], str, bool]] = [
    ("quantile", torch.quantile, ("quantile",), "q dim=None keepdim=False", False),
    ("diff", torch.diff, ("diff",), "n=1 dim=-1", True),
    ("rot90", torch.rot90, ("rot90",), "k=1 dims=None", True),
    ("fft", torch.fft.fft, (), _ONE, True),
    ("ifft", torch.fft.ifft, (), _ONE, True),
    ("rfft", torch.fft.rfft, (), _ONE, True),
    ("irfft", torch.fft.irfft, (), _ONE, True),
    ("fft2", torch.fft.fft2, (), _MORE, True),
    ("ifft2", torch.fft.ifft2, (), _MORE, True),
    ("rfft2", torch.fft.rfft2, (), _MORE, True),
    ("irfft2", torch.fft.irfft2, (), _MORE, True),
    ("fftn", torch.fft.fftn, (), _MORE, True),
    ("ifftn", torch.fft.ifftn, (), _MORE, True),
    ("rfftn", torch.fft.rfftn, (), _MORE, True),
    ("irfftn", torch.fft.irfftn, (), _MORE, True),
]


def _axes(operands: Operands) -> tuple[int, ...]:
    """The axes along which the node works."""
    rank, node = len(operands.tensor().shape), operands.node
    dim, sizes = node.attrs.get("dim", node.attrs.get("dims")), node.attrs.get("s")
    if dim is None and node.op in _OF_TWO:
        dim = (-2, -1)
    elif dim is None:
        dim = range(rank) if sizes is None else range(-len(known_sizes(sizes, operands)), 0)
    return tuple(sorted(int(d) % rank for d in ((dim,) if isinstance(dim, int) else dim)))


def _options(node: Node) -> dict[str, Attr]:
    """The arguments that are given: functions of whole values know no others."""
    return {key: value for key, value in node.attrs.items() if value is not None and value is not False}


def _infer(function: Callable[..., Any]) -> Callable[[Operands], Type]:
    """What torch gives of a value without entries, for two numbers of samples."""

    def infer(operands: Operands) -> Type:
        x, node = operands.tensor(), operands.node
        try:
            options = {name: _SIZES.get(name, _as_given)(value, operands) for name, value in _options(node).items()}
            few, more = (_given(function, x, samples, options) for samples in _SAMPLES)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
            raise IRError(f"node '{node.name}' ({node.op}) cannot be computed of '{x}': {reason}") from None
        return TensorType(dtype_name(few.dtype), tuple(map(_dim, few.shape, more.shape)))

    return infer


def _as_given(value: Attr, operands: Operands) -> Attr:
    return value


def _given(function: Callable[..., Any], x: TensorType, samples: int, options: dict[str, Any]) -> torch.Tensor:
    sizes = (number * samples ** len(names) for number, names in map(factors, x.shape))
    given: torch.Tensor = function(torch.empty(*sizes, dtype=dtype_of(x.dtype), device="meta"), **options)
    return given


def _dim(few: int, more: int) -> Dim:
    """The size of an axis that has these sizes for `_SAMPLES`."""
    return few if few == more else product(few // _SAMPLES[0], BATCH)


def _channels(rules: ChannelRules, operands: Operands) -> None:
    node, x, worked = operands.node, operands.tensor(), _axes(operands)
    kept = len(node.shape) == len(x.shape)
    for name in _SIZES:
        hold_sizes(rules, operands, name)
    position = 0
    for axis in range(len(x.shape)):
        layout = rules.layout(0, axis)
        if axis in worked:
            rules.freeze(layout, f"{node.op} works along it")
            position += kept
            continue
        rules.set(position, layout)
        position += 1


def _emit(function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    def emit(emitter: Emitter, node: Node) -> fx.Node:
        options = {name: emitter.resolve(value) for name, value in _options(node).items()}
        return emitter.call(function, emitter.value(node.inputs[0]), **options)

    return emit


for _name, _function, _methods, _text, _linear in _FUNCTIONS:
    register(
        OpSpec(
            _name,
            _infer(_function),
            _channels,
            _emit(_function),
            channelwise=True,
            linear=_linear,
            functions=dict.fromkeys((_function, *_methods), Call(signature(f"input {_text}"), sizes=tuple(_SIZES))),
        )
    )
