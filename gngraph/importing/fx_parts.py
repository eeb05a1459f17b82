"""Reading torch.fx calls of linear layers that multiply by a part of a weight: rows of a packed one, sliced, chunked or split."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.importing.fx_calls import Flags, bind
from gngraph.importing.fx_computed import ComputedLayer
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ops import lookup, spec_of_function
from gngraph.ops.linear_part import PART_LINEAR

_PIECES = ("chunk", "split")
"""Ops that cut rows into pieces."""
_NARROW = ("narrow", torch.narrow)


def part_layer(fx_node: fx.Node, shapes: Mapping[str, torch.Size], flags: Flags) -> ComputedLayer | None:
    """The linear layer that a call is, if it multiplies by a part of the rows of a parameter, or adds a part of one; else None.

    Args:
        fx_node: a call.
        shapes: of parameters, from `read_alone`.
        flags: arguments that differ between the modes.
    """
    layer = bind(lookup("linear").functions[F.linear], fx_node, flags) if fx_node.target is F.linear else None
    if layer is None:
        return None
    params, attrs, within = dict[str, fx.Node](), dict[str, Any](), list[fx.Node]()
    for role, attr, rank in (("weight", "rows", 2), ("bias", "bias_rows", 1)):
        attrs[attr] = None
        if layer[role] is None:
            continue
        calls = _calls(layer[role])
        if not calls:
            return None
        read = calls.pop()
        shape = shapes.get(str(read.target)) if read.op == "get_attr" else None
        if shape is None or len(shape) != rank:
            return None
        if calls:
            rows = _rows(calls, shape[0], flags)
            if rows is None:
                return None
            attrs[attr] = (rows.start, rows.stop)
        params[role] = read
        within += calls
    return ComputedLayer(PART_LINEAR, layer["input"], params, attrs, tuple(within)) if within else None


def _calls(value: Any) -> list[fx.Node]:
    """A value, what it is taken from, and so on."""
    found: list[fx.Node] = []
    while isinstance(value, fx.Node):
        found.append(value)
        value = value.args[0] if value.args else None
    return found


def _rows(calls: list[fx.Node], length: int, flags: Flags) -> range | None:
    """The rows that calls, of which each takes a part of what the next one gives, leave of a parameter; None for other calls."""
    rows: Any = range(length)
    for call in reversed(calls):
        rows = None if call.meta.get(WITHOUT_GRADIENT) else _taken(rows, call, flags)
        if rows is None:
            return None
    return rows if isinstance(rows, range) and rows else None


def _taken(rows: Any, call: fx.Node, flags: Flags) -> Any:
    """What a call takes of rows: a part, or a list of pieces of which others take one; None for what it may not be."""
    given: Any = call.args[1:]
    if call.target is operator.getitem:
        (index,) = given
        if isinstance(rows, list):
            return rows[index] if isinstance(index, int) and -len(rows) <= index < len(rows) else None
        first, *others = index if isinstance(index, tuple) else (index,)
        bounds = (first.start, first.stop) if isinstance(first, slice) and first.step in (None, 1) else ("",)
        plain = all(bound is None or type(bound) is int for bound in bounds)
        return rows[first] if plain and all(other in (slice(None), Ellipsis) for other in others) else None
    if not isinstance(rows, range):
        return None
    if call.target in _NARROW and not call.kwargs and [type(arg) for arg in given] == [int] * 3:
        dim, start, count = given
        return rows[start : start + count] if dim == 0 and start >= 0 else None
    spec = spec_of_function(call.target) if call.op != "get_attr" else None
    way = spec.call_of(call.target) if spec is not None and spec.name in _PIECES else None
    bound = bind(way, call, flags) if way is not None else None
    if bound is None or bound["dim"] != 0:
        return None
    sizes = bound["chunks"] if spec is lookup("chunk") else bound["sizes"]
    if isinstance(sizes, (list, tuple)) and all(type(size) is int for size in sizes):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    if type(sizes) is not int or sizes < 1:
        return None
    step = -(-len(rows) // sizes) if spec is lookup("chunk") else sizes
    return [rows[start : start + step] for start in range(0, len(rows), step)]
