"""Type and channel rules that several families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, OpaqueType, TensorType, TupleType, Type
from gngraph.ir.types import refs_in
from gngraph.ops.dtypes import promoted
from gngraph.ops.spec import ChannelRules, Emitter, Layout, Operands, ReadAttrs

IntOrPair = int | tuple[int, ...]


def spread(value: IntOrPair, count: int) -> tuple[int, ...]:
    """`value` once for each of `count` spatial axes.

    >>> spread(3, 2)
    (3, 3)
    """
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) if len(value) == count else tuple(value) * count


def window_reach(size: int, kernel: int, dilation: int, padding: int) -> int:
    """How far a window can be moved along an axis from its first place; below 0 where it is larger than the axis.

    Args:
        size: entries of the axis.
        kernel: entries that the window sees.
        dilation: how far apart these lie.
        padding: entries that are added at each end of the axis.

    >>> window_reach(8, kernel=3, dilation=1, padding=1)
    7
    """
    return size + 2 * padding - dilation * (kernel - 1) - 1


def window_counts(
    sizes: Sequence[Dim],
    kernel: Sequence[Dim],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
) -> list[int]:
    """How many windows lie along each of several axes.

    Args:
        sizes: entries of the axes.
        stride: how far windows are apart.
        kernel, dilation, padding: see `window_reach`.

    >>> window_counts((8, 9), (3, 3), (2, 1), (1, 1), (1, 0))
    [4, 7]
    """
    options = zip(sizes, kernel, stride, dilation, padding, strict=True)
    return [window_reach(int(n), int(k), d, p) // s + 1 for n, k, s, d, p in options]


def same_type(operands: Operands) -> Type:
    """The value has the type of the first input."""
    return operands.tensor()


def as_identity(node: Node) -> Node:
    """The node that gives its input on."""
    return replace(node, op="identity", attrs={}, module=None)


def set_each(rules: ChannelRules, operands: Operands, axis: int, layout: Layout | None) -> None:
    """An axis of the value has this layout: that of every item, where the value is a tuple.

    Args:
        rules: of the analysis under way.
        operands: the node.
        axis: of the value, or of its items.
        layout: of that axis.
    """
    type_ = operands.node.type
    for item in range(len(type_.items) if isinstance(type_, TupleType) else 1):
        rules.set(axis, layout, item)


def all_axes(rules: ChannelRules, operands: Operands) -> None:
    """Every axis keeps the layout that it has in the first input."""
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis, rules.layout(0, axis))


def broadcast_dims(operands: Operands, a: Dim, b: Dim) -> Dim:
    """One axis of two broadcast operands; IRError when they do not fit.

    Args:
        operands: whose node a refusal names.
        a, b: sizes of the axis in the two; 1 goes with every size.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise IRError(
        f"node '{operands.node.name}' ({operands.node.op}) combines sizes '{a}' and '{b}', which do not broadcast"
    )


def broadcast_shape(operands: Operands) -> tuple[Dim, ...]:
    """Shape of an element-wise combination of all inputs, by torch's broadcasting."""
    shapes = [operands.tensor(i).shape for i in operands.values()]
    rank = max(len(shape) for shape in shapes)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        padded = (1,) * (rank - len(shape)) + shape
        result = [broadcast_dims(operands, a, b) for a, b in zip(result, padded, strict=True)]
    return tuple(result)


def broadcast_type(operands: Operands) -> TensorType:
    """Type of an element-wise combination of all inputs and numbers, by torch's broadcasting and promotion."""
    return TensorType(promoted(operands), broadcast_shape(operands))


def broadcast_axes(rules: ChannelRules, operands: Operands) -> None:
    """Axes of an element-wise combination: equal layouts are unified, a broadcast size-1 axis is frozen."""
    types = {i: operands.tensor(i) for i in operands.values()}
    rank = max(len(t.shape) for t in types.values())
    for axis in range(rank):
        layouts, sizes = [], []
        for index, t in types.items():
            own = axis - (rank - len(t.shape))
            if own >= 0:
                layouts.append(rules.layout(index, own))
                sizes.append(t.shape[own])
        if len(set(sizes)) > 1:  # broadcasting: what has size 1 must keep it
            for layout, size in zip(layouts, sizes, strict=True):
                if size == 1:
                    rules.freeze(layout, "its single channel is broadcast")
            layouts = [layout for layout, size in zip(layouts, sizes, strict=True) if size != 1]
        rules.set(axis, rules.unify(layouts))


def freeze_inputs(rules: ChannelRules, operands: Operands, reason: str) -> None:
    """No space that reaches this node may change, be it through a tensor or through a size.

    Args:
        rules: of the analysis under way.
        operands: the node, all of whose inputs are meant.
        reason: goes on 'because': what stands in the way.
    """
    for index, type_ in enumerate(operands.inputs):
        if isinstance(type_, TensorType):
            for axis in range(len(type_.shape)):
                rules.freeze(rules.layout(index, axis), reason)
    freeze_sizes(rules, operands, reason)


def freeze_sizes(rules: ChannelRules, operands: Operands, reason: str) -> None:
    """No space may change whose number of channels reaches this node as a size.

    Args:
        rules: of the analysis under way.
        operands: the node, of whose inputs those are meant that are sizes.
        reason: as for `freeze_inputs`.
    """
    for index, type_ in enumerate(operands.inputs):
        if isinstance(type_, OpaqueType):
            for axis in range(len(type_.value) if isinstance(type_.value, tuple) else 1):
                rules.freeze(rules.layout(index, axis), reason)


def freeze_axes(rules: ChannelRules, operands: Operands, axes: set[int], reason: str) -> None:
    """Freeze the spaces on `axes` of the first input; every axis keeps its layout, in each item where the value is a tuple.

    Args:
        rules: of the analysis under way.
        operands: the node.
        axes: counted from 0, the batch included.
        reason: as for `freeze_inputs`.
    """
    for axis in range(len(operands.tensor().shape)):
        if axis in axes:
            rules.freeze(rules.layout(0, axis), reason)
        set_each(rules, operands, axis, rules.layout(0, axis))


def emit_simple(
    make: Callable[..., nn.Module] | None, function: Callable[..., Any]
) -> Callable[[Emitter, Node], fx.Node]:
    """Lowering for an op without parameters: a module where the source had one, else a call; attributes by keyword."""

    def emit(emitter: Emitter, node: Node) -> fx.Node:
        sizes = {*refs_in(tuple(node.attrs.values()))}
        inputs = [emitter.value(name) for name in node.inputs if name not in sizes]
        if node.module is not None and make is not None:
            return emitter.module(lambda: make(**node.attrs), *inputs)
        return emitter.call(function, *inputs, **{name: emitter.resolve(attr) for name, attr in node.attrs.items()})

    return emit


def read_attrs(*names: str) -> ReadAttrs:
    """A reader of module attributes of the same names."""
    return lambda module: {name: _frozen(getattr(module, name)) for name in names}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value
