"""Ops that write rows to places given by numbers, as graph networks do with messages: channels beside them are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Node, Type
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register

_BY_ROWS = ("index_add", "index_copy")
"""Ops whose numbers are those of whole rows; the others have one for every entry."""


def _infer(operands: Operands) -> Type:
    node, x, index, source = operands.node, *(operands.tensor(i) for i in range(3))
    rank = 1 if node.op in _BY_ROWS else len(x.shape)
    if len(source.shape) != len(x.shape) or len(index.shape) != rank:
        raise IRError(f"node '{node.name}' ({node.op}) writes '{source}' into '{x}' by '{index}'")
    return x


def _channels(rules: ChannelRules, operands: Operands) -> None:
    dim = operands.node.attrs["dim"] % len(operands.tensor().shape)
    places = [0, 2] if operands.node.op in _BY_ROWS else [0, 1, 2]
    if operands.node.op in _BY_ROWS:
        rules.freeze(rules.layout(1, 0), "it tells where rows are written")
    for axis, size in enumerate(operands.tensor().shape):
        layouts = [rules.layout(place, axis) for place in places]
        held = axis == dim or any(operands.tensor(place).shape[axis] != size for place in places)
        for layout in layouts if held else ():
            rules.freeze(layout, "it is written by number")
        rules.set(axis, layouts[0] if held else rules.unify(layouts))


def _emit(function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    def emit(emitter: Emitter, node: Node) -> fx.Node:
        x, index, source = (emitter.value(name) for name in node.inputs)
        options = {key: value for key, value in node.attrs.items() if key != "dim"}
        return emitter.call(function, x, node.attrs["dim"], index, source, **options)

    return emit


def _of_values(node: Node, positions: frozenset[int]) -> bool:
    """In what is written to and what is written together, the places held."""
    return positions <= {0, 2}


for _name, _function, _text in (
    ("index_add", torch.index_add, "input dim index source alpha=1"),
    ("index_copy", torch.index_copy, "input dim index source"),
    ("scatter", torch.scatter, "input dim index src"),
    ("scatter_add", torch.scatter_add, "input dim index src"),
    (
        "scatter_reduce",
        torch.scatter_reduce,
        "input dim index src reduce=None include_self=True",
    ),  # always given, by name
):
    _operands = ("input", "index", "source" if _name in _BY_ROWS else "src")
    register(
        OpSpec(
            _name,
            _infer,
            _channels,
            _emit(_function),
            channelwise=True,
            linear=_name != "scatter_reduce" and _of_values,
            functions=dict.fromkeys((_function, _name), Call(signature(_text), operands=_operands)),
        )
    )
