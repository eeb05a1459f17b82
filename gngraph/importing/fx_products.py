"""Reading torch.fx calls that multiply over axes, in which a raw parameter may be an operand."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.importing.fx_calls import Flags, bind
from gngraph.importing.fx_shapes import Importer
from gngraph.ir import Attr, Flag, Node, Parameter, Ref, TensorType
from gngraph.ops.products import ATTENTION, WEIGHT
from gngraph.ops.spec import Call, signature

_MATMUL = (operator.matmul, torch.matmul, torch.mm, torch.bmm, "matmul", "mm", "bmm", "__matmul__", torch.mv, "mv")
_OUTER = (torch.outer, torch.ger, "outer", "ger")
_TRANSPOSE = ("t", torch.t, "T", "mT")
_SWAP = ("transpose", torch.transpose, "swapaxes", torch.swapaxes)
_PERMUTE = ("permute", torch.permute)
_LAYERS: dict[Any, tuple[str, Call]] = {
    F.linear: ("transposed_linear", Call(signature("input weight bias=None"))),
    torch.addmm: ("linear", Call(signature("bias input weight beta=1 alpha=1"))),
}
"""Layers by call, and the ops that they are with the transpose of a parameter for a weight."""
_BADDBMM = Call(signature("input batch1 batch2 beta=1 alpha=1"), operands=("input", "batch1", "batch2"))


class ProductImporter(Importer, Protocol):
    """An import under way that knows which fx nodes read parameters."""

    @property
    def reads(self) -> Mapping[fx.Node, str]:
        """fx node -> the parameter that it reads."""
        ...

    @property
    def params(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        ...

    @property
    def transposed(self) -> Mapping[fx.Node, str]:
        """fx node -> the parameter of two axes of which it is the transpose."""
        ...

    @property
    def flags(self) -> Flags:
        """Arguments that differ between train and eval mode."""
        ...


def product_node(importer: ProductImporter, fx_node: fx.Node) -> Node | None:
    """The node of a matmul, an einsum, a scaled dot-product attention or a linear layer with a transposed raw weight.

    None for other calls and what has no rule.
    """
    target: Any = fx_node.target
    if target in _LAYERS:
        return _layer(importer, fx_node, *_LAYERS[target])
    if target is F.scaled_dot_product_attention:
        return _attention(importer, fx_node)
    if target in _MATMUL and not fx_node.kwargs:
        return _product(importer, fx_node, "matmul", list(fx_node.args), {})
    if target in (torch.baddbmm, "baddbmm"):
        return _added(importer, fx_node)
    if target in _OUTER and not fx_node.kwargs:
        return _product(importer, fx_node, "einsum", list(fx_node.args), {"equation": "i,j->ij"})
    if target is torch.einsum and not fx_node.kwargs and isinstance(fx_node.args[0], str):
        operands = list(fx_node.args[1:])
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = list(operands[0])
        return _product(importer, fx_node, "einsum", operands, {"equation": fx_node.args[0]})
    return None


def transposed_parameter(importer: ProductImporter, fx_node: fx.Node) -> str | None:
    """The parameter of two axes whose transpose a call takes, in any of torch's spellings; None for other calls."""
    source = fx_node.args[0] if fx_node.args else None
    if not isinstance(source, fx.Node) or source not in importer.reads or fx_node.kwargs:
        return None
    name, target, rest = importer.reads[source], fx_node.target, fx_node.args[1:]
    axes = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
    if importer.params[name].data.dim() != 2:
        return None
    if target is getattr:
        return name if rest[0] in _TRANSPOSE else None
    if target in _TRANSPOSE:
        return None if rest else name
    if not all(isinstance(axis, int) for axis in axes):
        return None
    places = [axis % 2 for axis in axes if isinstance(axis, int)]
    crossed = (target in _PERMUTE and places == [1, 0]) or (target in _SWAP and sorted(places) == [0, 1])
    return name if crossed else None


def _layer(importer: ProductImporter, fx_node: fx.Node, op: str, call: Call) -> Node | None:
    """A layer whose weight is the transpose of a parameter, as an op that reads the parameter itself; else None."""
    bound = bind(call, fx_node, importer.flags)
    if bound is not None and bound["weight"] in importer.reads and fx_node.target is F.linear:
        return _with_bias(importer, fx_node, bound)
    if (
        bound is None
        or bound["weight"] not in importer.transposed
        or (bound.get("beta", 1), bound.get("alpha", 1)) != (1, 1)
    ):
        return None
    params = {WEIGHT: importer.transposed[bound["weight"]]}
    if bound["bias"] is not None:
        if bound["bias"] not in importer.reads:
            return None
        params["bias"] = importer.reads[bound["bias"]]
        if importer.params[params["bias"]].data.dim() != 1:
            return None
    node = Node(fx_node.name, op, (importer.value(bound["input"]),), params)
    fits = len(importer.nodes[node.inputs[0]].shape) == 2 or fx_node.target is F.linear
    return node if fits and importer.infers(node) else None


def _with_bias(importer: ProductImporter, fx_node: fx.Node, bound: Mapping[str, Any]) -> Node | None:
    """A linear layer whose bias is computed; None for others."""
    bias = bound["bias"]
    if not isinstance(bias, fx.Node) or bias in importer.reads:
        return None
    inputs = (importer.value(bound["input"]), importer.value(bias))
    node = Node(fx_node.name, "linear_with_bias", inputs, {WEIGHT: importer.reads[bound["weight"]]})
    return node if importer.infers(node) else None


def _product(
    importer: ProductImporter, fx_node: fx.Node, op: str, operands: list[Any], attrs: dict[str, Attr]
) -> Node | None:
    if not all(isinstance(operand, fx.Node) for operand in operands):
        return None
    held = {**importer.reads, **(importer.transposed if op == "matmul" else {})}
    places = [i for i, operand in enumerate(operands) if operand in held]
    at = places[0] if len(places) == 1 and len(operands) == 2 else None  # two parameters are values like others
    inputs = tuple(importer.value(operand) for i, operand in enumerate(operands) if i != at)
    if not all(isinstance(importer.nodes[name].type, TensorType) for name in inputs):
        return None
    params = {WEIGHT: held[operands[at]]} if at is not None else {}
    attrs = {**attrs, "weight_at": at}
    if at is not None and operands[at] in importer.transposed:
        if at == 1:  # rows times the transpose of a weight: a linear layer
            op, attrs = "linear", {}
        else:
            attrs["transposed"] = True
    node = Node(fx_node.name, op, inputs, params, attrs)
    return node if importer.infers(node) else None


def _added(importer: ProductImporter, fx_node: fx.Node) -> Node | None:
    """Products that are added to a value, each times a number."""
    bound = bind(_BADDBMM, fx_node, importer.flags)
    if bound is None or not all(isinstance(bound[key], (int, float)) for key in ("beta", "alpha")):
        return None
    attrs: dict[str, Attr] = {key: bound.pop(key) for key in ("beta", "alpha")}
    node = Node(fx_node.name, "baddbmm", tuple(importer.value(operand) for operand in bound.values()), {}, attrs)
    return node if importer.infers(node) else None


def _attention(importer: ProductImporter, fx_node: fx.Node) -> Node | None:
    bound = bind(ATTENTION, fx_node, importer.flags)
    if bound is None:
        return None
    inputs = [importer.value(bound.pop(name)) for name in ATTENTION.operands]
    if not bound["enable_gqa"]:  # of as many heads of keys as of queries, as most are
        del bound["enable_gqa"]
    attrs = {name: importer.attr(value) for name, value in bound.items()}
    read = ("attn_mask", "scale")
    inputs += [attrs[key].name for key in read if isinstance(attrs[key], Ref)]
    if not all(
        attrs[key] is None
        or isinstance(attrs[key], (bool, int, float, Flag))
        or (key in read and isinstance(attrs[key], Ref))
        for key in attrs
    ):
        return None
    return Node(fx_node.name, "attention", tuple(inputs), {}, attrs)
