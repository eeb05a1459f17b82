"""Parameters and numbers in disguise: a parameter that was squeezed and is itself again, and options that are sizes."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from gngraph.importing.fx_calls import bind
from gngraph.importing.fx_products import ProductImporter
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ir import OpaqueType
from gngraph.ops import spec_of_function
from gngraph.ops.conv import CONVOLUTIONS

_SQUEEZE, _UNSQUEEZE = ("squeeze", torch.squeeze), ("unsqueeze", torch.unsqueeze)
_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv)
_KERNEL = 2
"""The first axis of a weight that is one of its kernel."""


def same_parameter(importer: ProductImporter, fx_node: fx.Node) -> str | None:
    """The parameter that a call gives as it is, having taken out an axis of 1 and put it back; None for other calls.

    Args:
        importer: the import under way.
        fx_node: a call.
    """
    inner = fx_node.args[0] if fx_node.target in _UNSQUEEZE and len(fx_node.args) == 2 else None
    if not isinstance(inner, fx.Node) or inner.target not in _SQUEEZE or len(inner.args) != 2:
        return None
    source, axes = inner.args[0], [fx_node.args[1], inner.args[1]]
    if source not in importer.reads or not isinstance(source, fx.Node) or not all(isinstance(a, int) for a in axes):
        return None
    if fx_node.meta.get(WITHOUT_GRADIENT) or inner.meta.get(WITHOUT_GRADIENT):
        return None
    shape = importer.params[importer.reads[source]].data.shape
    put, taken = (axis % len(shape) for axis in axes if isinstance(axis, int))
    return importer.reads[source] if put == taken and shape[taken] == 1 else None


def settle_convolution(importer: ProductImporter, fx_node: fx.Node) -> None:
    """Put numbers in the place of sizes among the options of a convolution, where no channel changes them.

    These are a padding that is computed from the kernel, and a group for every channel, which a depthwise convolution has at any
    width.

    Args:
        importer: the import under way.
        fx_node: a call.
    """
    spec = spec_of_function(fx_node.target) if fx_node.target in CONVOLUTIONS.values() else None
    way = spec.call_of(fx_node.target) if spec is not None else None
    bound = bind(way, fx_node, importer.flags) if way is not None else None
    weight = bound["weight"] if bound is not None else None
    if bound is None or not isinstance(weight, fx.Node) or weight not in importer.reads:
        return
    shape, settled = importer.params[importer.reads[weight]].data.shape, dict[str, int]()
    groups, padding = bound["groups"], bound["padding"]
    if isinstance(groups, fx.Node) and len(shape) > 1 and shape[1] == 1:
        type_ = importer.nodes[importer.value(groups)].type
        if isinstance(type_, OpaqueType) and isinstance(type_.value, int):
            settled["groups"] = type_.value
    if isinstance(padding, fx.Node) and (number := _of_kernel(importer, padding)) is not None:
        settled["padding"] = number
    if settled:
        fx_node.args = tuple(bound[name] for name in ("input", "weight", "bias"))
        fx_node.kwargs = {key: settled.get(key, bound[key]) for key in ("stride", "padding", "dilation", "groups")}


def _of_kernel(importer: ProductImporter, value: Any) -> int | None:
    """The number that a call computes from the sizes of a parameter's kernel alone; None for other values."""
    if isinstance(value, int):
        return value
    if not isinstance(value, fx.Node):
        return None
    if value.target in _ARITHMETIC and len(value.args) == 2:
        operands = [_of_kernel(importer, arg) for arg in value.args]
        function: Any = value.target
        return None if None in operands else function(*operands)
    source, place = (value.args[0], value.args[1]) if len(value.args) == 2 else (None, None)
    if value.target is operator.getitem and isinstance(source, fx.Node):
        whole = (source.target is getattr and source.args[1] == "shape") or (
            source.target == "size" and len(source.args) == 1
        )
        source = source.args[0] if whole else None
    elif value.target != "size":
        return None
    axes = list(_axes(importer, source))
    if not isinstance(place, int) or not -len(axes) <= place < len(axes):
        return None
    axis, size = axes[place]
    return size if axis >= _KERNEL else None


def _axes(importer: ProductImporter, value: Any) -> Iterator[tuple[int, int]]:
    """The axes of a parameter that a value has, with their sizes; none where it is none, or more than squeezed."""
    squeezed = None
    if isinstance(value, fx.Node) and value.target in _SQUEEZE and len(value.args) == 2:
        value, squeezed = value.args
    if isinstance(value, fx.Node) and value in importer.reads:
        shape = importer.params[importer.reads[value]].data.shape
        taken = squeezed % len(shape) if isinstance(squeezed, int) else None
        if taken is None or shape[taken] == 1:
            yield from ((axis, size) for axis, size in enumerate(shape) if axis != taken)
