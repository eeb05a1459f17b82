"""Reading torch.fx calls that are other spellings of ops: axes that are moved, stretches that are taken, the larger of two."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import fx

from gngraph.ir import Attr, Node, Slice, TensorType


class _Importer(Protocol):
    @property
    def nodes(self) -> Any: ...

    def value(self, arg: Any) -> str: ...


_WHOLE = Slice(None, None, None)
_OF_TWO = {torch.max: "maximum", torch.min: "minimum", "max": "maximum", "min": "minimum"}


def other_spelling(importer: _Importer, fx_node: fx.Node) -> Node | None:
    """The node of a call that moves axes, takes a stretch or an entry of one, or the larger or smaller of two; None for others.

    Args:
        importer: the import under way.
        fx_node: a call.
    """
    target: Any = fx_node.target
    source = fx_node.args[0] if fx_node.args else None
    type_ = importer.nodes[importer.value(source)].type if isinstance(source, fx.Node) and target in _KNOWN else None
    if not isinstance(type_, TensorType):
        return None
    name, rank = importer.value(source), len(type_.shape)
    args: list[Any] = [*fx_node.args[1:], *fx_node.kwargs.values()]
    if target in _OF_TWO:
        both = len(args) == 1 and isinstance(args[0], fx.Node)
        other = importer.value(args[0]) if both else ""
        if not both or not isinstance(importer.nodes[other].type, TensorType):
            return None
        return Node(fx_node.name, _OF_TWO[target], (name, other))
    if target in _ROWS:
        fits = len(args) == 2 and type(args[0]) is int and args[0] % rank and isinstance(args[1], fx.Node)
        return (
            Node(fx_node.name, "take", (name, importer.value(args[1])), {}, {"axes": (args[0] % rank,)})
            if fits
            else None
        )
    if not all(isinstance(arg, (int, tuple, list)) for arg in args):
        return None
    if target in _MOVES and len(args) == 2:
        return Node(fx_node.name, "permute", (name,), {}, {"dims": _moved(rank, *args)})
    if target in _NARROWS and len(args) == 3 and all(type(arg) is int for arg in args) and args[1] >= 0:
        return _indexed(fx_node, name, args[0] % rank, Slice(args[1], args[1] + args[2], None))
    if target in _SELECTS and len(args) == 2 and all(type(arg) is int for arg in args):
        return _indexed(fx_node, name, args[0] % rank, args[1])
    return None


_MOVES = (torch.movedim, torch.moveaxis, "movedim", "moveaxis")
_NARROWS = (torch.narrow, "narrow")
_SELECTS = (torch.select, "select")
_ROWS = (torch.index_select, "index_select")
_KNOWN = (*_ROWS, *_OF_TWO, *_MOVES, *_NARROWS, *_SELECTS)


def _moved(rank: int, source: Any, destination: Any) -> tuple[int, ...]:
    """The order of axes in which those at `source` stand at `destination`, the others as before."""
    moved = [
        [int(axis) % rank for axis in ((axes,) if isinstance(axes, int) else axes)] for axes in (source, destination)
    ]
    order: list[int | None] = [None] * rank
    for axis, place in zip(*moved, strict=True):
        order[place] = axis
    others = iter(axis for axis in range(rank) if axis not in moved[0])
    return tuple(next(others) if axis is None else axis for axis in order)


def _indexed(fx_node: fx.Node, source: str, axis: int, entry: Attr) -> Node:
    return Node(fx_node.name, "index", (source,), {}, {"index": (*[_WHOLE] * axis, entry)})
