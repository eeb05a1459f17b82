"""Layers with normalised weights: a direction and lengths, as `torch.nn.utils.weight_norm` makes them.

There is a length for each filter, or, in the attribute `dim`, an axis of a convolution's kernel that has one for each position.
Of a transposed convolution, whose weight has what it reads first, there is one for each channel that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Attr, Node, Type
from gngraph.ops.conv import CONVOLUTIONS, convolution_channels, convolution_positions, convolve, infer_convolution
from gngraph.ops.conv_transpose import TRANSPOSED, infer_transposed, transposed_channels, transposed_positions
from gngraph.ops.linear import infer_linear, linear_channels, linear_positions
from gngraph.ops.spec import Emitter, Operands, OpSpec
from gngraph.ops.starts import convolved, of_layer, within
from gngraph.ops.table import register
from gngraph.ops.traits import ComputedWeight

NORMALISED = "normalised_"
"""What stands before the name of the layer."""
POSITIONS = "lengths"
"""Role of the lengths of a kernel's positions, which all filters share."""


def lengths_of(node: Node) -> tuple[str, int]:
    """The role of the lengths, and the axis of the weight that they are of: "gain" where there is one for each filter."""
    dim = int(node.attrs.get("dim", 0))
    return "gain" if dim == 0 else POSITIONS, dim


def _inferred(infer: Callable[[Operands], Type]) -> Callable[[Operands], Type]:
    def inferred(operands: Operands) -> Type:
        node, weight = operands.node, operands.params["weight"].shape
        role, dim = lengths_of(node)
        lengths = operands.params[role].shape if role in operands.params else ()
        if dim == 1 or lengths != tuple(size if axis == dim else 1 for axis, size in enumerate(weight)):
            raise IRError(f"node '{node.name}' ({node.op}) has a weight of shape {weight}, but lengths of {lengths}")
        return infer(operands)

    return inferred


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    role, dim = lengths_of(node)
    direction, lengths = (emitter.param(node.params[name]) for name in ("weight", role))
    weight = emitter.call(torch._weight_norm, direction, lengths, dim)
    x, bias = emitter.value(node.inputs[0]), emitter.param(node.params["bias"]) if "bias" in node.params else None
    rank = len(emitter.shape(node.params["weight"])) - 2
    functions = TRANSPOSED if node.op.startswith(f"{NORMALISED}transposed_") else CONVOLUTIONS
    return emitter.call(functions[rank] if rank else F.linear, x, weight, bias, **_options(node))


def _options(node: Node) -> dict[str, Attr]:
    """Attributes of the layer itself."""
    return {key: value for key, value in node.attrs.items() if key != "dim"}


def _plain(node: Node) -> Node:
    params = {role: param for role, param in node.params.items() if role in ("weight", "bias")}
    return replace(node, op=node.op.removeprefix(NORMALISED), params=params, attrs=_options(node))


def _weight(node: Node, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
    role, dim = lengths_of(node)
    direction = params["weight"].double()
    return torch._weight_norm(direction, params[role].double(), dim).to(params["weight"].dtype)


def _norm(node: Node, weight: torch.Tensor) -> torch.Tensor:
    """The length of each filter, or of each position, in the shape of the lengths."""
    _, dim = lengths_of(node)
    others = [axis for axis in range(weight.dim()) if axis != dim]
    norm: torch.Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return norm


def _parameters(
    node: Node, weight: torch.Tensor, before: Mapping[str, torch.Tensor], followed: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Each filter, or position, keeps the ratio of its direction to its weight; one of no weight keeps a direction, of length 0."""
    role, _ = lengths_of(node)
    wanted, lengths = weight.double(), before[role].double()
    old, rest = _norm(node, before["weight"].double()), followed.double()
    ratio = torch.where(old == 0, 1.0, old) / torch.where(lengths == 0, 1.0, lengths)
    rest = torch.where(_norm(node, rest) > 0, rest, 1.0)
    still = _norm(node, wanted) == 0
    own = torch.where(still, rest, wanted * ratio)
    found = {"weight": own, role: torch.where(still, 0.0, _norm(node, own) / ratio)}
    return {name: tensor.to(weight.dtype) for name, tensor in found.items()}


def _length(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The length of the direction that is there."""
    return values.copy_(_norm(node, weight))


_COMPUTED = ComputedWeight(_plain, _weight, _parameters, shared=frozenset({POSITIONS}))
for _rank in CONVOLUTIONS:
    register(
        OpSpec(
            f"{NORMALISED}conv{_rank}d",
            _inferred(infer_convolution),
            convolution_channels,
            _emit,
            positions=convolution_positions,
            apply=convolve,
            computed=_COMPUTED,
            starts={**of_layer(convolved), "gain": _length, POSITIONS: _length},
            linear=True,
        )
    )
for _rank in TRANSPOSED:
    register(
        OpSpec(
            f"{NORMALISED}transposed_conv{_rank}d",
            _inferred(infer_transposed),
            transposed_channels,
            _emit,
            positions=transposed_positions,
            computed=_COMPUTED,
            starts={**of_layer(within(lambda node, weight: weight[0].numel())), "gain": _length},
            linear=True,
        )
    )
register(
    OpSpec(
        f"{NORMALISED}linear",
        _inferred(infer_linear),
        linear_channels,
        _emit,
        positions=linear_positions,
        apply=lambda node, x, weight: F.linear(x, weight),
        computed=_COMPUTED,
        channel_axis=-1,
        starts={**of_layer(within(lambda node, weight: weight.shape[1])), "gain": _length},
        linear=True,
    )
)
