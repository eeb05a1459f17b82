"""Reading torch.fx calls of layers whose weight is computed: standardised or normalised, or put together of parameters."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.importing.fx_calls import Flags, bind
from gngraph.importing.fx_shapes import Importer
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ir import Attr, Node, Parameter
from gngraph.ops import lookup
from gngraph.ops.conv import CONVOLUTIONS
from gngraph.ops.conv_transpose import TRANSPOSED
from gngraph.ops.formed import BY_MODE, FORMED, formed_shape
from gngraph.ops.modes import by_mode
from gngraph.ops.standardised import STANDARDISED
from gngraph.ops.weight_norm import NORMALISED, POSITIONS

_TRANSPOSED = {function: f"transposed_conv{rank}d" for rank, function in TRANSPOSED.items()}
_LAYERS = {**{function: f"conv{rank}d" for rank, function in CONVOLUTIONS.items()}, F.linear: "linear", **_TRANSPOSED}
_OPTIONS = ("stride", "padding", "output_padding", "dilation", "groups")
_SIZED = ("reshape", "view")
_RESHAPES = (*_SIZED, "flatten")
_PRODUCTS = (operator.mul, torch.mul, "mul")
_FORMING: Mapping[str, tuple[Any, ...]] = {
    "add": (operator.add, torch.add, "add"),
    "sub": (operator.sub, torch.sub, "sub"),
    "mul": _PRODUCTS,
    "div": (operator.truediv, torch.div, "div"),
    "matmul": (operator.matmul, torch.matmul, torch.mm, "matmul", "mm"),
    "t": (torch.t, "t"),
    BY_MODE: (by_mode,),
}
"""Calls that form a weight, by what a formula names them."""


@dataclass(frozen=True)
class ComputedLayer:
    """A layer whose weight is computed.

    Attributes:
        op: which.
        source: fx node that it reads.
        params: fx nodes that read its parameters, by role.
        attrs: of the op.
        within: the calls that make its weight.
        more: further fx nodes that it reads.
    """

    op: str
    source: fx.Node
    params: Mapping[str, fx.Node]
    attrs: Mapping[str, Any]
    within: tuple[fx.Node, ...]
    more: tuple[fx.Node, ...] = ()

    def node(self, importer: Importer, fx_node: fx.Node, reads: Mapping[fx.Node, str]) -> Node:
        """The node of the call.

        Args:
            importer: the import under way.
            fx_node: the call.
            reads: fx node -> the parameter that it reads.
        """
        attrs: dict[str, Attr] = {key: importer.attr(value) for key, value in self.attrs.items()}
        params = {role: reads[node] for role, node in self.params.items()}
        return Node(fx_node.name, self.op, tuple(map(importer.value, (self.source, *self.more))), params, attrs)


@dataclass(frozen=True)
class _Weight:
    """A weight that is computed: the beginning of the op's name, what it is read from, how, and the calls that it takes."""

    kind: str
    params: Mapping[str, Any]
    attrs: Mapping[str, Any]
    within: tuple[Any, ...]

    def shape(self, held: Mapping[str, torch.Size | None]) -> tuple[int, ...] | None:
        """The weight's own shape, from those of its parameters; None where they do not fit."""
        if self.kind != FORMED:
            return held["weight"]
        try:
            return formed_shape(self.attrs["formula"], {role: tuple(shape or ()) for role, shape in held.items()})
        except IRError:
            return None


class WeightShapes(dict[str, torch.Size]):
    """WeightShapes of parameters, by name; `buffers` has those of what is not learned."""

    buffers: dict[str, torch.Size]


def read_alone(params: Mapping[str, Parameter], traced: fx.Graph) -> WeightShapes:
    """The shapes of parameters, but for those of several names, one of which is that of a module that is one node.

    Args:
        params: by name.
        traced: the graph.
    """
    leaves = {str(node.target) for node in traced.nodes if node.op == "call_module"}
    found = WeightShapes()
    found.buffers = {name: p.data.shape for name, p in params.items() if p.kind != "parameter" and not p.aliases}
    for name, parameter in params.items():
        names = [name, *(alias for alias, _ in parameter.aliases)]
        if parameter.kind == "parameter" and (
            len(names) == 1 or leaves.isdisjoint(n.rpartition(".")[0] for n in names)
        ):
            found[name] = parameter.data.shape
    return found


def computed_layer(fx_node: fx.Node, shapes: WeightShapes, flags: Flags) -> ComputedLayer | None:
    """The layer that a call is, if its weight is computed in a way that is known, and nothing else reads a part of it; else None.

    Args:
        fx_node: a call.
        shapes: of parameters, from `read_alone`.
        flags: arguments that differ between the modes.
    """
    op = _LAYERS.get(fx_node.target) if callable(fx_node.target) else None
    layer = bind(lookup(op).functions[fx_node.target], fx_node, flags) if op is not None else None
    if op is None or layer is None or not isinstance(layer["weight"], fx.Node):
        return None
    made = layer["weight"]
    weight = _standardised(made, shapes, flags) or _normalised(made) or _formed(made, shapes, layer["bias"])
    if weight is None or (weight.kind == STANDARDISED and op == "linear"):
        return None
    if op in _TRANSPOSED.values() and (weight.kind, weight.attrs) != (NORMALISED, {}):
        return None
    bias = () if "bias_formula" in weight.attrs else (("bias", layer["bias"]),)
    params = {role: node for role, node in (*weight.params.items(), *bias) if node is not None}
    known = shapes.buffers | shapes if weight.kind == FORMED else shapes
    held = {role: _shape(node, known) for role, node in params.items()}
    within = {n for n in weight.within if isinstance(n, fx.Node) and n.op != "get_attr"}
    shape = weight.shape(held)
    if shape is None or None in held.values() or any(n.meta.get(WITHOUT_GRADIENT) for n in within):
        return None
    if POSITIONS in held and held[POSITIONS] != _along(shape, weight.attrs["dim"]):
        return None
    filters = ("gain",) if op in _TRANSPOSED.values() else ("bias", "gain")
    per_filter = [own for role, own in held.items() if role in filters and own is not None]
    if any(own[0] != own.numel() or own[0] != shape[0] for own in per_filter):
        return None
    if weight.kind == FORMED and layer.get("groups", 1) != 1:
        return None
    targets = {node.target for node in params.values()}
    reading = [node for node in fx_node.graph.nodes if node.op == "get_attr" and node.target in targets]
    if not all(set(node.users) <= {*within, fx_node} for node in (*within, *reading)):
        return None
    attrs = {**weight.attrs, **{key: layer[key] for key in _OPTIONS if key in layer}}
    return ComputedLayer(f"{weight.kind}{op}", layer["input"], params, attrs, tuple(within))


def within_alone(layers: Mapping[fx.Node, ComputedLayer]) -> set[fx.Node]:
    """The calls that make weights of layers, and nothing that anything else reads.

    Args:
        layers: by call.
    """
    found = {node for layer in layers.values() for node in layer.within}

    def is_read(node: fx.Node, user: fx.Node) -> bool:
        layer = layers.get(user)
        return user not in found and (layer is None or node not in layer.within or node in (layer.source, *layer.more))

    while read := {node for node in found if any(is_read(node, user) for user in node.users)}:
        found -= read
    return found


def _normalised(made: fx.Node) -> _Weight | None:
    """A direction times lengths, of filters or of positions, as `torch.nn.utils.weight_norm` computes it."""
    if made.target is not torch._weight_norm or made.kwargs:
        return None
    dim: Any = made.args[2] if len(made.args) > 2 else 0
    if type(dim) is not int or dim < 0 or dim == 1:
        return None
    role, attrs = ("gain", {}) if dim == 0 else (POSITIONS, {"dim": dim})
    return _Weight(NORMALISED, {"weight": made.args[0], role: made.args[1]}, attrs, (made,))


def _formed(made: fx.Node, shapes: WeightShapes, bias: Any) -> _Weight | None:
    """A weight that is put together of parameters: sums, multiples and products of matrices; so may its bias be."""
    params: dict[str, Any] = {}
    biases: dict[str, Any] = {}
    within: list[Any] = []
    formula = _formula(made, shapes, params, within)
    attrs: dict[str, Any] = {"formula": formula}
    if isinstance(bias, fx.Node) and bias.op != "get_attr":
        attrs["bias_formula"] = _formula(bias, shapes, biases, within, "bias")
    forms = isinstance(formula, tuple) and not (formula[0] == "t" and isinstance(formula[1], str))
    if formula is None or None in attrs.values() or not (forms or (isinstance(formula, str) and biases)):
        return None
    learned = {role for role, node in (*params.items(), *biases.items()) if str(node.target) in shapes}
    found = {name: _masked(form, learned) for name, form in attrs.items()}
    return None if None in found.values() else _Weight(FORMED, params | biases, found, tuple(within))


def _masked(formula: Attr, learned: Collection[str]) -> Attr:
    """A formula in which what is not learned is the second of two that are multiplied entry by entry; None where it is elsewhere.

    Args:
        formula: of roles and numbers.
        learned: roles of what is.
    """
    if not isinstance(formula, tuple):
        return formula if not isinstance(formula, str) or formula in learned else None
    name, operands = formula[0], formula[1:]
    held = [isinstance(operand, str) and operand not in learned for operand in operands]
    if name == "mul" and True in held:
        first, second = operands if held[1] else operands[::-1]
        reads = _masked(first, learned)
        return None if reads is None else (name, reads, second)
    found = [_masked(operand, learned) for operand in operands]
    return None if None in found else (name, *found)


def _formula(value: Any, shapes: WeightShapes, params: dict[str, Any], within: list[Any], stem: str = "weight") -> Attr:
    """What a call computes, as `gngraph.ops.formed` writes it; None for anything else.

    Args:
        value: a call, the read of a parameter, or a number.
        shapes: of parameters, from `read_alone`.
        params: gets the parameters by role.
        within: gets the calls.
        stem: what roles begin with.
    """
    if type(value) in (int, float) or not isinstance(value, fx.Node):
        return value if type(value) in (int, float) else None
    if value.op == "get_attr":
        if str(value.target) not in {*shapes, *shapes.buffers}:
            return None
        role = next((role for role, node in params.items() if node.target == value.target), f"{stem}{len(params)}")
        params.setdefault(role, value)
        return role
    target, operands = value.target, value.args
    name = next((name for name, calls in _FORMING.items() if target in calls), None)
    if target is getattr and operands[1] in ("T", "mT"):
        name, operands = "t", operands[:1]
    if name is None or value.kwargs or len(operands) != (1 if name == "t" else 2):
        return None
    found = [_formula(operand, shapes, params, within, stem) for operand in operands]
    within.append(value)
    return None if None in found else (name, *found)


def _along(shape: Sequence[int], dim: int) -> torch.Size:
    """The shape of what has an entry for each position along an axis."""
    return torch.Size(size if axis == dim else 1 for axis, size in enumerate(shape))


def _standardised(made: fx.Node, shapes: WeightShapes, flags: Flags) -> _Weight | None:
    """What a batch norm gives of filters in a row, each less its mean and over its deviation, brought into the form that it had."""
    norm = _reshaped(made)
    given = None
    if norm is not None and norm.target is F.batch_norm:
        given = bind(lookup("batch_norm").functions[F.batch_norm], norm, flags)
    if given is None or given["training"] is not True:
        return None
    if given["running_mean"] is not None or given["running_var"] is not None or given["bias"] is not None:
        return None
    filters, gain = given["input"], _reshaped(given["weight"])
    weight = _reshaped(filters)
    shape = _shape(weight, shapes)
    sizes = _sizes(filters) if shape is not None and filters.target in _SIZED else ()
    count = sizes[1] if len(sizes) == 3 and (sizes[0], sizes[2]) == (1, -1) else None
    counting = _read_by(count, weight)
    formed = _shaped_like(made, weight, shape) if shape is not None else None
    if shape is None or formed is None or not (count == shape[0] or counting):
        return None
    within, attrs = [made, norm, filters, given["weight"], gain, *counting, *formed], {"eps": given["eps"]}
    if gain is not None and gain.target in _PRODUCTS and len(gain.args) == 2:
        gain, attrs["scale"] = gain.args  # type: ignore[assignment]
    plain = type(attrs.get("scale", 1.0)) is float
    return _Weight(STANDARDISED, {"weight": weight, "gain": gain}, attrs, tuple(within)) if plain else None


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
