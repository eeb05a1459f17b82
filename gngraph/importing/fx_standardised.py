"""Reading torch.fx calls that standardise the weight of a convolution by a batch norm over each of its filters."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.importing.fx_calls import Flags, bind
from gngraph.importing.fx_shapes import Importer
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ir import Attr, Node
from gngraph.ops import lookup
from gngraph.ops.standardised import STANDARDISED

_LAYERS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_SIZED = ("reshape", "view")
_RESHAPES = (*_SIZED, "flatten")
_PRODUCTS = (operator.mul, torch.mul, "mul")


@dataclass(frozen=True)
class StandardisedLayer:
    """A convolution whose weight is standardised.

    Attributes:
        op: which.
        source: fx node that it reads.
        params: fx nodes that read its parameters, by role.
        attrs: of the op.
        within: the calls that make its weight, which nothing else reads.
    """

    op: str
    source: fx.Node
    params: Mapping[str, fx.Node]
    attrs: Mapping[str, Any]
    within: tuple[fx.Node, ...]

    def node(self, importer: Importer, fx_node: fx.Node, reads: Mapping[fx.Node, str]) -> Node:
        """The node of the call.

        Args:
            importer: the import under way.
            fx_node: the call.
            reads: fx node -> the parameter that it reads.
        """
        attrs: dict[str, Attr] = {key: importer.attr(value) for key, value in self.attrs.items()}
        params = {role: reads[node] for role, node in self.params.items()}
        return Node(fx_node.name, self.op, (importer.value(self.source),), params, attrs)


def standardised_layer(fx_node: fx.Node, shapes: Mapping[str, torch.Size], flags: Flags) -> StandardisedLayer | None:
    """The convolution that a call is, if its weight is standardised and nothing else reads a part of it; else None.

    Args:
        fx_node: a call.
        shapes: of the parameters that have one name, by it.
        flags: arguments that differ between the modes.
    """
    rank = _LAYERS.get(fx_node.target) if callable(fx_node.target) else None
    layer = bind(lookup(f"conv{rank}d").functions[fx_node.target], fx_node, flags) if rank is not None else None
    norm = _reshaped(layer["weight"]) if layer is not None else None
    if layer is None or norm is None or norm.target is not F.batch_norm:
        return None
    given = bind(lookup("batch_norm").functions[F.batch_norm], norm, flags)
    if given is None or given["training"] is not True:
        return None
    filters, gain = given["input"], given["weight"]
    params = {"weight": _reshaped(filters), "gain": _reshaped(gain), "bias": layer["bias"]}
    shape = _shape(params["weight"], shapes)
    sizes = _sizes(filters) if shape is not None and filters.target in _SIZED else ()
    count = sizes[1] if len(sizes) == 3 and (sizes[0], sizes[2]) == (1, -1) else None
    counting = _read_by(count, params["weight"])
    if shape is None or not (count == shape[0] or counting):
        return None
    within = [layer["weight"], norm, filters, gain, params["gain"], *counting]
    formed = _shaped_like(layer["weight"], params["weight"], shape)
    if formed is None:
        return None
    within += formed
    attrs = {"eps": given["eps"], **{key: layer[key] for key in ("stride", "padding", "dilation", "groups")}}
    if params["gain"] is not None and params["gain"].target in _PRODUCTS and len(params["gain"].args) == 2:
        params["gain"], attrs["scale"] = params["gain"].args
    params = {role: node for role, node in params.items() if node is not None}
    per_filter = [_shape(node, shapes) for role, node in params.items() if role != "weight"]
    within = [node for node in dict.fromkeys(within) if node is not None and node.op != "get_attr"]
    unlike = given["running_mean"] is not None or given["running_var"] is not None or given["bias"] is not None
    if unlike or type(attrs.get("scale", 1.0)) is not float or any(n.meta.get(WITHOUT_GRADIENT) for n in within):
        return None
    if any(own is None or own[0] != own.numel() or len(own) not in (1, len(shape)) for own in per_filter):
        return None
    targets = {node.target for node in params.values()}
    reading = [node for node in fx_node.graph.nodes if node.op == "get_attr" and node.target in targets]
    alone = all(set(node.users) <= {*within, fx_node} for node in (*within, *reading))
    return (
        StandardisedLayer(f"{STANDARDISED}conv{rank}d", layer["input"], params, attrs, tuple(within)) if alone else None
    )


def _shape(value: Any, shapes: Mapping[str, torch.Size]) -> torch.Size | None:
    """Shape of the parameter that a value is."""
    return shapes.get(str(value.target)) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def _reshaped(value: Any) -> fx.Node | None:
    """What a call reshapes, or the value itself where it is another call."""
    if not isinstance(value, fx.Node):
        return None
    if value.target not in _RESHAPES:
        return value
    return value.args[0] if value.args and isinstance(value.args[0], fx.Node) else None


def _read_by(count: Any, weight: Any) -> tuple[fx.Node, ...]:
    """The calls that read how many filters a weight has; none where `count` is something else."""
    if not isinstance(count, fx.Node):
        return ()
    if (count.target, *count.args) == ("size", weight, 0):
        return (count,)
    source = count.args[0] if (count.target, *count.args[1:]) == (operator.getitem, 0) else None
    if isinstance(source, fx.Node) and (source.target, *source.args) in ((getattr, weight, "shape"), ("size", weight)):
        return count, source
    return ()


def _shaped_like(reshape: fx.Node, weight: Any, shape: torch.Size) -> list[fx.Node] | None:
    """The calls that read a weight's shape, in which something is brought; None where that is another shape."""
    sizes = _sizes(reshape)
    if sizes == tuple(shape):
        return []
    whole = sizes[0].args[0] if sizes and isinstance(sizes[0], fx.Node) else None
    items = [(size.target, *size.args) if isinstance(size, fx.Node) else () for size in sizes]
    if not isinstance(whole, fx.Node) or (whole.target, *whole.args) != ("size", weight):
        return None
    return [*sizes, whole] if items == [(operator.getitem, whole, i) for i in range(len(shape))] else None


def _sizes(reshape: fx.Node) -> tuple[Any, ...]:
    sizes = reshape.args[1:]
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
