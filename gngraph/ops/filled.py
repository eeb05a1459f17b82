"""Tensors of one number, or of random ones, that a forward makes, such as a first state or noise: any width of them is as good."""

from __future__ import annotations

from collections.abc import Iterator

from gngraph.errors import IRError
from gngraph.ir import BATCH, Attr, Dim, Node, OpaqueType, Ref, TensorType, Type
from gngraph.ops.foreign import emit_one_of, require_target
from gngraph.ops.rules import freeze_sizes
from gngraph.ops.sizes import hold_size, known_size, size_layout
from gngraph.ops.spec import AttrPath, ChannelRules, Operands, OpSpec
from gngraph.ops.table import register

FILLS = ("torch.zeros", "torch.ones", "torch.full", ".new_zeros", ".new_ones", ".new_full", "torch.rand", "torch.randn")
"""Functions, and methods with a dot in front, that fill a tensor of a size with one number, or with numbers drawn one by one."""

EMPTY = ".new_empty"
"""The method that leaves a tensor with whatever numbers, which a forward fills by itself; of sizes that are no widths."""

NUMBER = "torch.tensor"
"""The function that makes a tensor of a number, which may be a size; it stays the number that it was."""


def _shape(operands: Operands) -> tuple[int, tuple[Dim, ...]] | None:
    """Which of the inputs is the shape of another value that the tensor gets, as in `torch.zeros(x.shape)`, and that; else None."""
    start = 1 if str(operands.node.attrs["target"]).startswith(".") else 0
    given = operands.node.attrs["args"][start : start + 1]
    if not given or not isinstance(given[0], Ref):
        return None
    index = operands.node.inputs.index(given[0].name)
    type_ = operands.inputs[index]
    return (index, type_.value) if isinstance(type_, OpaqueType) and isinstance(type_.value, tuple) else None


def _sizes(node: Node) -> Iterator[tuple[AttrPath, Attr]]:
    """Where each size stands in a node's arguments, and what stands there."""
    start = 1 if str(node.attrs["target"]).startswith(".") else 0
    given = node.attrs["args"][start:]
    if given and isinstance(given[0], tuple):
        yield from ((("args", start, i), size) for i, size in enumerate(given[0]))
    elif not str(node.attrs["target"]).endswith("full"):
        yield from ((("args", i), size) for i, size in enumerate(given, start=start))


def _infer(operands: Operands) -> Type:
    require_target(operands.node, FILLS)
    whole = _shape(operands)
    return TensorType(operands.node.attrs["dtype"].name, _given(operands) if whole is None else whole[1])


def _given(operands: Operands) -> tuple[Dim, ...]:
    """The sizes that stand among the arguments, as numbers."""
    sizes = tuple(_known(size, operands) for _, size in _sizes(operands.node))
    if not sizes:
        raise IRError(f"node '{operands.node.name}' ({operands.node.op}) takes no sizes by position")
    return sizes


def _known(size: Attr, operands: Operands) -> Dim:
    known = known_size(size, operands)
    if known is None or isinstance(size, bool):
        raise IRError(
            f"node '{operands.node.name}' ({operands.node.op}) takes sizes that are not known when the network is traced"
        )
    return known


def _channels(rules: ChannelRules, operands: Operands) -> None:
    """An axis of a number may hold channels, whichever; one of a size follows that."""
    whole = _shape(operands)
    if whole is not None:
        for axis in range(len(whole[1])):
            rules.set(axis, rules.layout(whole[0], axis))
        return
    for axis, (path, size) in enumerate(_sizes(operands.node)):
        if isinstance(size, int):
            layout = rules.blank(size) if size > 1 else None
        else:
            layout = size_layout(rules, operands, size)
            if layout is not None and any(segment.inner != 1 for segment in layout):
                rules.freeze(layout, "a tensor of a number is made of a size computed from it")
                layout = None
        hold_size(rules, operands, path, layout)
        rules.set(axis, layout)


def _infer_empty(operands: Operands) -> Type:
    require_target(operands.node, (EMPTY,))
    node, shape = operands.node, _given(operands)
    for size in shape:
        if size not in (1, BATCH):
            raise IRError(f"node '{node.name}' ({node.op}) leaves '{size}' entries with whatever numbers")
    return TensorType(node.attrs["dtype"].name, shape)


def _empty_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_sizes(rules, operands, "a tensor that the forward fills by itself takes its size")


def _infer_number(operands: Operands) -> Type:
    require_target(operands.node, (NUMBER,))
    node = operands.node
    number = node.attrs["args"][0] if len(node.attrs["args"]) == 1 else None
    if known_size(number, operands) is None and not isinstance(number, float):
        raise IRError(f"node '{node.name}' (number) makes a tensor of what is no number")
    return TensorType(node.attrs["dtype"].name, ())


def _number_channels(rules: ChannelRules, operands: Operands) -> None:
    hold_size(rules, operands, ("args", 0), None)


# import makes them of calls that would be foreign
register(OpSpec("filled", _infer, _channels, emit_one_of(FILLS), of_sizes=True))
register(OpSpec("new_empty", _infer_empty, _empty_channels, emit_one_of((EMPTY,)), of_sizes=True))
register(OpSpec("number", _infer_number, _number_channels, emit_one_of((NUMBER,)), of_sizes=True))
