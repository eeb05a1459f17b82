"""Convolutions with standardised weights: each filter less its mean, over its deviation, times a gain, as NFNets have them.

Any weight is one of these by a gain and a mean for each filter. Where the network has none, the layer gets them as buffers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Node, Type
from gngraph.ops.conv import CONVOLUTIONS, convolution_channels, convolution_positions, convolve, infer_convolution
from gngraph.ops.spec import Emitter, Operands, OpSpec
from gngraph.ops.starts import alike, convolved, of_layer
from gngraph.ops.table import register
from gngraph.ops.traits import ComputedWeight

STANDARDISED = "standardised_"
"""What stands before the name of the convolution."""

_ROUNDING = 64
"""Steps of a dtype within which a mean is 0 and a gain 1."""


def _infer(operands: Operands) -> Type:
    node, filters = operands.node, operands.params["weight"].shape[0]
    for role in ("gain", "mean"):
        shape = operands.params[role].shape if role in operands.params else (filters,)
        if shape[:1] != (filters,) or math.prod(int(size) for size in shape) != filters:
            raise IRError(f"node '{node.name}' ({node.op}) has {filters} filters, but a {role} of shape {shape}")
    return infer_convolution(operands)


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    weight, shape = emitter.param(node.params["weight"]), emitter.shape(node.params["weight"])
    gain = emitter.param(node.params["gain"]) if "gain" in node.params else None
    if gain is not None:
        scaled = emitter.call(operator.mul, gain, node.attrs["scale"]) if "scale" in node.attrs else gain
        gain = emitter.method("view", scaled, -1)
    filters = emitter.method("reshape", weight, 1, shape[0], -1)
    options = {"weight": gain, "training": True, "momentum": 0.0, "eps": node.attrs["eps"]}
    value = emitter.method("reshape_as", emitter.call(F.batch_norm, filters, None, None, **options), weight)
    if "mean" in node.params:
        mean = emitter.method("view", emitter.param(node.params["mean"]), -1, *[1] * (len(shape) - 1))
        value = emitter.call(operator.add, value, mean)
    bias = emitter.param(node.params["bias"]) if "bias" in node.params else None
    options = {key: node.attrs[key] for key in ("stride", "padding", "dilation", "groups")}
    return emitter.call(CONVOLUTIONS[len(shape) - 2], emitter.value(node.inputs[0]), value, bias, **options)


def _plain(node: Node) -> Node:
    params = {role: param for role, param in node.params.items() if role in ("weight", "bias")}
    attrs = {key: value for key, value in node.attrs.items() if key not in ("scale", "eps")}
    return replace(node, op=node.op.removeprefix(STANDARDISED), params=params, attrs=attrs)


def _weight(node: Node, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
    filters = params["weight"].double().flatten(1)
    centred = filters - filters.mean(1, keepdim=True)
    weight = centred * (_gain(node, params) / _deviation(node, filters)).unsqueeze(1)
    if "mean" in params:
        weight = weight + params["mean"].double().view(-1, 1)
    return weight.view_as(params["weight"]).to(params["weight"].dtype)


def _parameters(
    node: Node, weight: torch.Tensor, before: Mapping[str, torch.Tensor], followed: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Each filter keeps the ratio of its parameter to its weight, so that entries that stay in the one stay in the other.

    A filter of no weight keeps its parameter, and gets the gain 0.
    """
    filters, old = weight.double().flatten(1), before["weight"].double().flatten(1)
    mean = filters.mean(1, keepdim=True)
    centred, gain = filters - mean, _gain(node, before)
    step = _ROUNDING * torch.finfo(weight.dtype).eps
    still = centred.square().mean(1) <= (step * filters).square().mean(1)
    ratio = _deviation(node, old) / torch.where(gain == 0, 1.0, gain)
    own = centred * ratio.unsqueeze(1) + old.mean(1, keepdim=True)
    own = torch.where(still.unsqueeze(1), followed.double().flatten(1), own)
    gain = torch.where(still, 0.0, _deviation(node, own) / ratio)
    found = {"weight": own.view_as(weight)}
    if "gain" in before or bool(((gain - 1).abs() > step).any()):
        shape = (-1, *before["gain"].shape[1:]) if "gain" in before else (-1,)
        found["gain"] = (gain / node.attrs.get("scale", 1.0)).view(shape)
    if "mean" in before or bool((mean.squeeze(1).abs() > step * filters.square().mean(1).sqrt()).any()):
        found["mean"] = mean.squeeze(1)
    return {role: tensor.to(weight.dtype) for role, tensor in found.items()}


def _gain(node: Node, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "gain" not in params:
        return params["weight"].new_ones(len(params["weight"]), dtype=torch.float64)
    scale: float = node.attrs.get("scale", 1.0)
    return params["gain"].double().flatten() * scale


def _deviation(node: Node, filters: torch.Tensor) -> torch.Tensor:
    eps: float = node.attrs["eps"]
    return (filters.var(1, correction=0) + eps).sqrt()


for _rank in CONVOLUTIONS:
    register(
        OpSpec(
            f"{STANDARDISED}conv{_rank}d",
            _infer,
            convolution_channels,
            _emit,
            positions=convolution_positions,
            apply=convolve,
            computed=ComputedWeight(_plain, _weight, _parameters, centred=True),
            starts={**of_layer(convolved), "gain": alike(1.0)},
            linear=True,
        )
    )
