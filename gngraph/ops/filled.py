"""Tensors of one number, or of random ones, that a forward makes, such as a first state or noise: any width of them is as good."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from gngraph.errors import IRError
from gngraph.ir import BATCH, Attr, Dim, Node, OpaqueType, Ref, TensorType, Type
from gngraph.ops.foreign import resolve_function
from gngraph.ops.sizes import hold_size, known_size, size_layout
from gngraph.ops.spec import AttrPath, ChannelRules, Emitter, Operands, OpSpec, register

FILLS = ("torch.zeros", "torch.ones", "torch.full", ".new_zeros", ".new_ones", ".new_full", "torch.rand", "torch.randn")
"""Functions, and methods with a dot in front, that fill a tensor of a size with one number, or with numbers drawn one by one."""

NUMBER = "torch.tensor"
"""The function that makes a tensor of a number, which may be a size; it stays the number that it was."""

EMPTY = ".new_empty"
"""The method of a tensor with whatever numbers, which a forward fills by itself; of sizes that are no widths."""


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
    node = operands.node
    shape: list[Dim] = []
    if node.attrs["target"] == NUMBER:
        number = node.attrs["args"][0] if len(node.attrs["args"]) == 1 else None
        if known_size(number, operands) is None and not isinstance(number, float):
            raise IRError(f"node '{node.name}' (filled) makes a tensor of what is no number")
        return TensorType(node.attrs["dtype"].name, ())
    whole = _shape(operands)
    if whole is not None and node.attrs["target"] != EMPTY:
        return TensorType(node.attrs["dtype"].name, whole[1])
    for _, size in _sizes(node):
        known = known_size(size, operands)
        if known is None or isinstance(size, bool):
            raise IRError(f"node '{node.name}' (filled) takes sizes that are not known when the network is traced")
        if node.attrs["target"] == EMPTY and known not in (1, BATCH):
            raise IRError(f"node '{node.name}' (filled) fills '{known}' entries with no number")
        shape.append(known)
    if not shape:
        raise IRError(f"node '{node.name}' (filled) takes no sizes by position")
    return TensorType(node.attrs["dtype"].name, tuple(shape))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    """An axis of a number may hold channels, whichever; one of a size follows that."""
    if operands.node.attrs["target"] == NUMBER:
        hold_size(rules, operands, ("args", 0), None)
        return
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


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    args, kwargs = emitter.resolve(node.attrs["args"]), emitter.resolve(node.attrs["kwargs"])
    target = str(node.attrs["target"])
    if target not in (*FILLS, EMPTY, NUMBER):
        raise IRError(
            f"node '{node.name}' (filled) calls '{target}', which is none of {', '.join((*FILLS, EMPTY, NUMBER))}"
        )
    if target.startswith("."):
        return emitter.method(target[1:], *args, **kwargs)
    return emitter.call(resolve_function(target), *args, **kwargs)


# import makes it of calls that would be foreign
register(OpSpec("filled", _infer, _channels, _emit, of_sizes=True))
