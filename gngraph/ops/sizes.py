"""Sizes as dims and as attributes: their arithmetic, and what an attribute that gives a size says of the axes it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import cast

from gngraph.ir import BATCH, Attr, Dim, OpaqueType, Ref
from gngraph.ir.types import attr_at
from gngraph.ops.rules import freeze_sizes
from gngraph.ops.spec import ChannelRules, Factor, Layout, Operands

_OF_ANOTHER = "a shape is computed from the size of another axis"
"""Why an axis is frozen that gives an axis its length without being it."""


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
        elif layout and other and length_of(layout) == length_of(other):
            rules.unify([layout, other])
        else:
            rules.freeze(layout, _OF_ANOTHER)
            rules.freeze(other, _OF_ANOTHER)
    elif attr is not None and attr != -1:
        rules.measure(path, layout)


def hold_sizes(rules: ChannelRules, operands: Operands, name: str) -> None:
    """The sizes that an attribute gives, one or several, are those of axes that no space changes.

    Args:
        rules: of the analysis under way.
        operands: the node.
        name: of the attribute.
    """
    sizes = operands.node.attrs.get(name)
    if isinstance(sizes, tuple):
        for i in range(len(sizes)):
            hold_size(rules, operands, (name, i), None)
    elif isinstance(sizes, Ref) and known_size(sizes, operands) is None:
        freeze_sizes(rules, operands, _OF_ANOTHER)  # a shape, within which no number can take the place of a size
    elif sizes is not None:
        hold_size(rules, operands, (name,), None)


def length_of(layout: Layout) -> int:
    """Entries of an axis, or a size, that a layout accounts for."""
    return sum(segment.length for segment in layout)


def scaled(layout: Layout, factor: Fraction | int) -> Layout:
    """A layout with `factor` times as many entries a channel: of a size that is multiplied, divided or, by -1, taken away."""
    return tuple(type(s)(s.var, s.size, cast(int, s.inner * factor)) for s in layout)
