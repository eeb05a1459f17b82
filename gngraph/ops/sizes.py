"""Sizes as values: what a forward reads of a tensor's shape and computes with, and the items of tuples."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, cast

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import BATCH, Attr, Dim, Node, OpaqueType, Ref, Slice, TupleType, Type
from gngraph.ir.types import attr_at
from gngraph.ops.rules import all_axes, freeze_inputs, set_each
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Layout, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first


def factors(*dims: Dim) -> tuple[int, tuple[str, ...]]:
    """The product of dims as a number and the sorted names of symbolic sizes.

    >>> factors("N", 4, "2*N")
    (8, ('N', 'N'))
    """
    number, names = 1, []
    for dim in dims:
        for part in [dim] if isinstance(dim, int) else dim.split("*"):
            if isinstance(part, int) or part.isdigit():
                number *= int(part)
            else:
                names.append(part)
    return number, tuple(sorted(names))


def product(*dims: Dim) -> Dim:
    """The product of dims as one dim.

    >>> product("N", 4, 3), product(2, 3)
    ('12*N', 6)
    """
    number, names = factors(*dims)
    return number if not names else "*".join(([str(number)] if number != 1 else []) + list(names))


def sizes_of(operands: Operands, index: int, axes: Iterable[int]) -> tuple[Factor, ...]:
    """The sizes of some axes of an input as factors, but for what is the batch alone.

    Args:
        operands: the node.
        index: number of the input.
        axes: of that input, counted from 0.
    """
    return tuple((index, axis) for axis in axes if operands.tensor(index).shape[axis] != BATCH)


def quotient(whole: Dim, part: Dim) -> Dim | None:
    """whole / part, or None where it does not come out even."""
    (number, names), (divisor, others) = factors(whole), factors(part)
    rest = list(names)
    for name in others:
        if name not in rest:
            return None
        rest.remove(name)
    return None if divisor == 0 or number % divisor else product(number // divisor, *rest)


def known_size(attr: Attr, operands: Operands) -> Dim | None:
    """The size that an attribute stands for: an int, or what is known of the value that it refers to."""
    if isinstance(attr, Ref):
        type_ = operands.inputs[operands.node.inputs.index(attr.name)]
        value = type_.value if isinstance(type_, OpaqueType) else None
        return None if isinstance(value, tuple) else value
    return attr if isinstance(attr, int) else None


def known_sizes(attr: Attr, operands: Operands) -> tuple[Dim | None, ...]:
    """The sizes that an attribute stands for: a number, numbers and sizes, or what is known of a shape."""
    if isinstance(attr, Ref):
        type_ = operands.inputs[operands.node.inputs.index(attr.name)]
        value = type_.value if isinstance(type_, OpaqueType) else None
        return value if isinstance(value, tuple) else (value,)
    return tuple(known_size(entry, operands) for entry in (attr if isinstance(attr, tuple) else (attr,)))


def size_layout(rules: ChannelRules, operands: Operands, attr: Attr) -> Layout | None:
    """The layout of the axis whose size `attr` refers to; None for constants and sizes that no space changes.

    Args:
        rules: of the analysis under way.
        operands: the node.
        attr: one of its attributes, or an entry of one: a number, or a reference to a node that computes a size.
    """
    return rules.layout(operands.node.inputs.index(attr.name), 0) if isinstance(attr, Ref) else None


def hold_size(rules: ChannelRules, operands: Operands, path: tuple[str | int, ...], layout: Layout | None) -> None:
    """The integer, or the reference to a size, at `path` gives the length of an axis with this layout.

    An integer is measured; -1 and None follow by themselves. So is a size that does not grow as the axis does (the heads that are
    merged to a width read off the stream): once the two part, the number that it was stands in its place. A size of so many
    entries a sample grows with the axis.

    Args:
        rules: of the analysis under way.
        operands: the node.
        path: name of an attribute, then positions in it.
        layout: of the axis that gets this length; None for one that no space changes.
    """
    attr = attr_at(operands.node.attrs, path)
    if isinstance(attr, Ref):
        other = size_layout(rules, operands, attr)
        if rules.same_amount(layout, other):
            return
        if isinstance(known_size(attr, operands), int):
            rules.measure(path, layout or ())
        elif layout and other and _length(layout) == _length(other):
            rules.unify([layout, other])
        else:
            reason = "a shape is computed from the size of another axis"
            rules.freeze(layout, reason)
            rules.freeze(other, reason)
    elif attr is not None and attr != -1:
        rules.measure(path, layout)


def _length(layout: Layout) -> int:
    """Entries of an axis, or a size, that a layout accounts for."""
    return sum(segment.length for segment in layout)


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
        if isinstance(size, str) and divisor == factors(size)[0] == _length(first):  # which leaves the samples
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


def scaled(layout: Layout, factor: Fraction | int) -> Layout:
    """A layout with `factor` times as many entries a channel: of a size that is multiplied, divided or, by -1, taken away."""
    return tuple(type(s)(s.var, s.size, cast(int, s.inner * factor)) for s in layout)


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
