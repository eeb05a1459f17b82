"""Layers with normalised weights: of each filter a direction and a length, as `torch.nn.utils.weight_norm` makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Node, Type
from gngraph.ops.conv import CONVOLUTIONS, convolution_channels, convolution_positions, convolve, infer_convolution
from gngraph.ops.linear import infer_linear, linear_channels, linear_positions
from gngraph.ops.spec import Emitter, Operands, OpSpec, register
from gngraph.ops.starts import convolved, of_layer, within
from gngraph.ops.traits import ComputedWeight

NORMALISED = "normalised_"
"""What stands before the name of the layer."""


def _inferred(infer: Callable[[Operands], Type]) -> Callable[[Operands], Type]:
    def inferred(operands: Operands) -> Type:
        node, weight, gain = operands.node, operands.params["weight"].shape, operands.params["gain"].shape
        if gain != (weight[0], *[1] * (len(weight) - 1)):
            raise IRError(f"node '{node.name}' ({node.op}) has a weight of shape {weight}, but lengths of {gain}")
        return infer(operands)

    return inferred


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    direction, gain = (emitter.param(node.params[role]) for role in ("weight", "gain"))
    weight = emitter.call(torch._weight_norm, direction, gain, 0)
    x, bias = emitter.value(node.inputs[0]), emitter.param(node.params["bias"]) if "bias" in node.params else None
    rank = len(emitter.shape(node.params["weight"])) - 2
    return emitter.call(CONVOLUTIONS[rank] if rank else F.linear, x, weight, bias, **node.attrs)


def _plain(node: Node) -> Node:
    params = {role: param for role, param in node.params.items() if role != "gain"}
    return replace(node, op=node.op.removeprefix(NORMALISED), params=params)


def _weight(node: Node, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
    direction = params["weight"].double()
    return torch._weight_norm(direction, params["gain"].double(), 0).to(params["weight"].dtype)


def _parameters(
    node: Node, weight: torch.Tensor, before: Mapping[str, torch.Tensor], followed: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Each filter keeps the ratio of its direction to its weight; one of no weight keeps a direction, and gets the length 0."""
    filters, old = weight.double().flatten(1), before["weight"].double().flatten(1)
    gain = before["gain"].double().flatten(1)
    ratio = old.norm(dim=1, keepdim=True) / torch.where(gain == 0, 1.0, gain)
    rest = followed.double().flatten(1)
    rest = torch.where(rest.norm(dim=1, keepdim=True) > 0, rest, 1.0)
    still = filters.norm(dim=1, keepdim=True) == 0
    own = torch.where(still, rest, filters * ratio)
    lengths = torch.where(still, 0.0, own.norm(dim=1, keepdim=True) / ratio)
    found = {"weight": own.view_as(weight), "gain": lengths.view(-1, *before["gain"].shape[1:])}
    return {role: tensor.to(weight.dtype) for role, tensor in found.items()}


def _length(node: Node, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The length of the direction that is there."""
    return values.copy_(weight.flatten(1).norm(dim=1).view_as(values))


_COMPUTED = ComputedWeight(_plain, _weight, _parameters)
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
            starts={**of_layer(convolved), "gain": _length},
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
