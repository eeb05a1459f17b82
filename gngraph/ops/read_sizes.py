"""Sizes as values: what a forward reads of a tensor's shape and computes with, and the items of tuples."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, OpaqueType, Slice, TupleType, Type
from gngraph.ops.rules import all_axes, freeze_inputs, set_each
from gngraph.ops.sizes import factors, hold_size, known_size, length_of, product, quotient, scaled, size_layout
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def _infer_size(operands: Operands) -> Type:
    shape, dim = operands.tensor().shape, operands.node.attrs["dim"]
    return OpaqueType("torch.Size", shape) if dim is None else OpaqueType("int", shape[dim])


def _size_channels(rules: ChannelRules, operands: Operands) -> None:
    """Reading a size changes nothing; it carries the axis's layout, which whatever uses the number must respect."""
    dim = operands.node.attrs["dim"]
    if dim is not None:
        rules.set(0, rules.layout(0, dim % len(operands.tensor().shape)))
        return
    all_axes(rules, operands)


def _emit_size(emitter: Emitter, node: Node) -> fx.Node:
    x, dim = emitter.value(node.inputs[0]), node.attrs["dim"]
    return emitter.method("size", x) if dim is None else emitter.method("size", x, dim)


register(
    OpSpec(
        "size",
        _infer_size,
        _size_channels,
        _emit_size,
        of_sizes=True,
        functions={"size": Call(signature("input dim=None"))},
    )
)


def _numel_channels(rules: ChannelRules, operands: Operands) -> None:
    """It grows with the only axis that has channels by what all others hold; with several, only what nothing reads may."""
    shape = operands.tensor().shape
    found = [axis for axis in range(len(shape)) if rules.layout(0, axis) is not None]
    others = product(*(size for axis, size in enumerate(shape) if axis not in found))
    if len(found) == 1 and isinstance(others, int):
        rules.set(0, scaled(rules.layout(0, found[0]) or (), others))
    elif not rules.unread():
        freeze_inputs(rules, operands, "its size is multiplied by another")


_NUMEL = Call(signature("input"))
register(
    OpSpec(
        "numel",
        lambda operands: OpaqueType("int", product(*operands.tensor().shape)),
        _numel_channels,
        lambda emitter, node: emitter.method("numel", emitter.value(node.inputs[0])),
        of_sizes=True,
        functions={"numel": _NUMEL, "nelement": _NUMEL, torch.numel: _NUMEL},
    )
)


def _positions(index: Attr, length: int) -> list[int] | int:
    if isinstance(index, Slice):
        return list(range(length)[slice(index.start, index.stop, index.step)])
    return range(length)[index]


def _infer_getitem(operands: Operands) -> Type:
    source, index = operands.inputs[0], operands.node.attrs["index"]
    if isinstance(source, TupleType):
        return source.items[index]
    assert isinstance(source, OpaqueType)
    if not isinstance(source.value, tuple):
        return OpaqueType("int")
    at = _positions(index, len(source.value))
    if isinstance(at, list):
        return OpaqueType("torch.Size", tuple(source.value[i] for i in at))
    return OpaqueType("int", source.value[at])


def _getitem_channels(rules: ChannelRules, operands: Operands) -> None:
    source, index = operands.inputs[0], operands.node.attrs["index"]
    if isinstance(source, TupleType):
        for axis, layout in rules.item_layouts(0, index).items():
            set_each(rules, operands, axis, layout)
    elif isinstance(source, OpaqueType) and isinstance(source.value, tuple):
        at = _positions(index, len(source.value))
        for position, axis in enumerate(at if isinstance(at, list) else [at]):
            rules.set(position, rules.layout(0, axis))


def _emit_getitem(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.call(operator.getitem, emitter.value(node.inputs[0]), emitter.resolve(node.attrs["index"]))


register(
    OpSpec(
        "getitem",
        _infer_getitem,
        _getitem_channels,
        _emit_getitem,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
    )
)


ARITHMETIC: dict[Callable[..., Any], str] = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.floordiv: "floordiv",
    operator.mod: "mod",
}
"""Operators on sizes, with the names that node attributes give them."""

ROUNDED_UP = "ceildiv"
"""Names `math.ceil(a / b)`."""

FRACTIONS: dict[Callable[..., Any], str] = {operator.truediv: "truediv", operator.pow: "pow", math.sqrt: "sqrt"}
"""Functions that make a fraction of a size, such as the scale of attention."""

_FUNCTIONS = {name: function for function, name in (*ARITHMETIC.items(), *FRACTIONS.items())}


def settled(node: Node) -> int | float | None:
    """The number that a node computes of numbers alone, without any size; None for any other node.

    Args:
        node: any.
    """
    if node.op != "size_arithmetic" or node.inputs or node.attrs["function"] == ROUNDED_UP:
        return None
    number: int | float = _FUNCTIONS[node.attrs["function"]](*node.attrs["operands"])
    return number


def _operands(operands: Operands) -> tuple[Attr, Attr]:
    a, b = operands.node.attrs["operands"]
    return a, b


def _infer_arithmetic(operands: Operands) -> Type:
    if _is_fraction(operands):
        return OpaqueType("float")
    a, b = (known_size(attr, operands) for attr in _operands(operands))
    name = operands.node.attrs["function"]
    value: Dim | None = None
    if a is not None and b is not None:
        if name == "mul":
            value = product(a, b)
        elif isinstance(a, int) and isinstance(b, int):
            value = math.ceil(a / b) if name == ROUNDED_UP else int(_FUNCTIONS[name](a, b))
        elif name == "floordiv":
            value = quotient(a, b)
    return OpaqueType("int", value)


def _is_fraction(operands: Operands) -> bool:
    """Whether the result is no whole number: of what makes fractions, and of all arithmetic with one."""
    kinds = [type_.text for type_ in operands.inputs if isinstance(type_, OpaqueType)]
    literals = any(isinstance(attr, float) for attr in operands.node.attrs["operands"])
    return operands.node.attrs["function"] in FRACTIONS.values() or literals or "float" in kinds


def _arithmetic_channels(rules: ChannelRules, operands: Operands) -> None:
    """The result grows by a fixed amount with each channel: in proportion for a constant factor or divisor.

    A fraction stays the number that it is: what it scales is the function of the network.
    """
    if _is_fraction(operands):
        for i in range(len(operands.node.attrs["operands"])):
            hold_size(rules, operands, ("operands", i), None)
        return
    a, b = _operands(operands)
    name = operands.node.attrs["function"]
    layouts = [size_layout(rules, operands, attr) for attr in (a, b)]
    if layouts == [None, None]:
        if name == "mul":
            _of_samples(rules, operands)
        return
    first, second = layouts
    if name in ("add", "sub"):
        sign = 1 if name == "add" else -1
        rules.set(0, (first or ()) + scaled(second or (), sign))
    elif name == "mul" and None in layouts and (factor := known_size(b if first else a, operands)) is not None:
        rules.set(0, scaled(first or second or (), factors(factor)[0]))
    elif name == "floordiv" and second is None and isinstance(divisor := known_size(b, operands), int) and first:
        size = known_size(a, operands)
        if isinstance(size, str) and divisor == factors(size)[0] == length_of(first):  # which leaves the samples
            rules.measure(("operands", 1), first)
            return
        if isinstance(size, int) and size % divisor == 0:
            rules.set(0, scaled(first, Fraction(1, divisor)))
            return
        freeze_inputs(rules, operands, f"its size is divided by {divisor}, which leaves a rest")
    else:
        freeze_inputs(rules, operands, "its size is computed with")


def _of_samples(rules: ChannelRules, operands: Operands) -> None:
    """Samples times a number may be those of heads that go with them along one axis: the number has channels of its own."""
    pair = _operands(operands)
    for i, (number, samples) in enumerate((pair, pair[::-1])):
        if isinstance(number, int) and isinstance(known_size(samples, operands), str):
            heads = rules.blank(number)
            rules.measure(("operands", i), heads)
            rules.set(0, heads)


def _emit_arithmetic(emitter: Emitter, node: Node) -> fx.Node:
    operands = emitter.resolve(node.attrs["operands"])
    if node.attrs["function"] == ROUNDED_UP:
        return emitter.call(math.ceil, emitter.call(operator.truediv, *operands))
    return emitter.call(_FUNCTIONS[node.attrs["function"]], *operands)


register(OpSpec("size_arithmetic", _infer_arithmetic, _arithmetic_channels, _emit_arithmetic, of_sizes=True))


PROPERTIES = ("device", "dim", "dtype", "is_cuda", "ndim", "requires_grad")
"""What a forward may ask of a tensor that no width changes."""


def _infer_property(operands: Operands) -> Type:
    name = operands.node.attrs["name"]
    if name not in PROPERTIES:
        raise IRError(f"node '{operands.node.name}' reads '{name}', which is none of {', '.join(PROPERTIES)}")
    return OpaqueType("int", len(operands.tensor().shape)) if name in ("dim", "ndim") else OpaqueType(name)


def _property_channels(rules: ChannelRules, operands: Operands) -> None:
    """No width changes it."""


def _emit_property(emitter: Emitter, node: Node) -> fx.Node:
    name, x = node.attrs["name"], emitter.value(node.inputs[0])
    return emitter.method("dim", x) if name == "dim" else emitter.call(getattr, x, name)


register(
    OpSpec(
        "property",
        _infer_property,
        _property_channels,
        _emit_property,
        of_sizes=True,
    )
)
