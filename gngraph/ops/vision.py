"""Torchvision's own kernels: deformable convolutions, and pooling of regions."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Node, TensorType, Type
from gngraph.ops.rules import freeze_axes, read_attrs, spread
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Operands, OpSpec, signature
from gngraph.ops.starts import convolved, of_layer
from gngraph.ops.table import register
from gngraph.ops.traits import of_first


def _infer_deformed(operands: Operands) -> Type:
    node, x, offset, weight = operands.node, operands.tensor(0), operands.tensor(1), operands.params["weight"].shape
    if len(x.shape) != 4 or len(offset.shape) != 4 or int(x.shape[1]) % int(weight[1]):
        raise IRError(f"node '{node.name}' ({node.op}) convolves '{x}' at '{offset}' by a weight of {weight}")
    return TensorType(x.dtype, (x.shape[0], weight[0], *offset.shape[2:]))


def _deformed_channels(rules: ChannelRules, operands: Operands) -> None:
    """Filters write channels, and their second axis reads them, where neither they nor what places them come in groups."""
    x, offset, weight = operands.tensor(0), operands.tensor(1), operands.params["weight"].shape
    freeze_axes(rules, operands, {2, 3}, "it is convolved over, which mixes neighbours")
    for operand in range(1, len(operands.inputs)):
        rules.freeze(rules.layout(operand, 1), "it tells where to convolve")
    out, layout = rules.produce("weight", 0), rules.layout(0, 1)
    rules.consume("weight", 1, layout)
    if x.shape[1] != weight[1] or offset.shape[1] != 2 * int(weight[2]) * int(weight[3]):
        for grouped in (layout, out):
            rules.freeze(grouped, "it is convolved in groups")
    if "bias" in operands.params:
        rules.follow("bias", 0, out, "zeros")
    rules.set(1, out)


def _emit_deformed(emitter: Emitter, node: Node) -> fx.Node:
    from torchvision.ops import DeformConv2d, deform_conv2d  # here, for its import costs as much as torch's

    values, weight = [emitter.value(name) for name in node.inputs[:2]], emitter.shape(node.params["weight"])
    options: dict[str, Any] = {key: node.attrs[key] for key in ("stride", "padding", "dilation")}
    given = {"mask": emitter.resolve(node.attrs["mask"])} if node.attrs["mask"] is not None else {}
    if node.module is None:
        bias = emitter.param(node.params["bias"]) if "bias" in node.params else None
        return emitter.call(deform_conv2d, *values, emitter.param(node.params["weight"]), bias, **options, **given)
    options |= {"groups": node.attrs["groups"], "bias": "bias" in node.params}

    def build() -> nn.Module:
        with torch.device("meta"):
            layer: nn.Module = DeformConv2d(weight[1] * options["groups"], weight[0], weight[2:], **options)
        return layer

    return emitter.module(build, *values, **given)


def _deformed_products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    weight = operands.params["weight"].shape
    return ((*sizes_of(operands, 1, (0, 2, 3)), ("weight", 0), ("weight", 1), int(weight[2]) * int(weight[3])),)


register(
    OpSpec(
        "deform_conv2d",
        _infer_deformed,
        _deformed_channels,
        _emit_deformed,
        products=_deformed_products,
        linear=of_first,
        of_part=True,
        starts=of_layer(convolved),
        modules={"torchvision.ops.deform_conv.DeformConv2d": read_attrs("stride", "padding", "dilation", "groups")},
        functions={
            "torchvision.ops.deform_conv.deform_conv2d": Call(
                signature("input offset weight bias=None stride=1 padding=0 dilation=1 mask=None"),
                operands=("input", "offset"),
                params=("weight", "bias"),
                sizes=("mask",),
            )
        },
        call=Call(signature("input offset mask=None"), operands=("input", "offset"), sizes=("mask",)),
    )
)


def _infer_regions(operands: Operands) -> Type:
    node, x, boxes = operands.node, operands.tensor(0), operands.tensor(1)
    if len(x.shape) != 4 or boxes.shape[1:] != (5,):
        raise IRError(f"node '{node.name}' ({node.op}) pools regions '{boxes}' of '{x}'")
    return TensorType(x.dtype, (boxes.shape[0], x.shape[1], *spread(node.attrs["output_size"], 2)))


def _region_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_axes(rules, operands, {2, 3}, "it is pooled over")
    rules.freeze(rules.layout(1, 1), "it tells where to pool")
    rules.set(1, rules.layout(0, 1))


def _emit_regions(emitter: Emitter, node: Node) -> fx.Node:
    from torchvision import ops  # here, for its import costs as much as torch's

    values = [emitter.value(name) for name in node.inputs]
    if node.module is None:
        return emitter.call(getattr(ops, node.op), *values, **node.attrs)
    return emitter.module(lambda: getattr(ops, _REGIONS[node.op][0])(**node.attrs), *values)


_REGIONS = {
    "roi_align": ("RoIAlign", "input boxes output_size spatial_scale=1.0 sampling_ratio=-1 aligned=False"),
    "roi_pool": ("RoIPool", "input boxes output_size spatial_scale=1.0"),
}
"""Functions, each with its module and its arguments."""

for _name, (_module, _arguments) in _REGIONS.items():
    _options = [name for name, _ in signature(_arguments)[2:]]
    register(
        OpSpec(
            _name,
            _infer_regions,
            _region_channels,
            _emit_regions,
            channelwise=True,
            linear=of_first if _name == "roi_align" else False,
            modules={f"torchvision.ops.{_name}.{_module}": read_attrs(*_options)},
            functions={f"torchvision.ops.{_name}.{_name}": Call(signature(_arguments), operands=("input", "boxes"))},
            call=Call(signature("input rois"), operands=("input", "rois")),
        )
    )
