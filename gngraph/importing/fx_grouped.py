"""Reading torch.fx calls that multiply rows by the weights of experts, one for each stretch of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.importing.fx_calls import Flags
from gngraph.importing.fx_computed import ComputedLayer
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ops.grouped import GROUPED

_CALLS = (torch._grouped_mm, getattr(F, "grouped_mm", None))  # which older versions of torch have not
_SWAP = ("transpose", torch.transpose, "swapaxes", torch.swapaxes)


def grouped_layer(fx_node: fx.Node, shapes: Mapping[str, torch.Size], flags: Flags) -> ComputedLayer | None:
    """The layer that a call is, if it multiplies rows by a parameter of three axes, or by its transpose; None for other calls.

    Args:
        fx_node: a call.
        shapes: of the parameters that have one name, by it.
        flags: arguments that differ between the modes; these calls have none.
    """
    if fx_node.target not in _CALLS or fx_node.op != "call_function" or len(fx_node.args) != 2:
        return None
    given: dict[str, Any] = {key: value for key, value in fx_node.kwargs.items() if value is not None}
    ends, (rows, weight) = given.pop("offs", None), fx_node.args
    if given or not all(isinstance(value, fx.Node) for value in (ends, rows, weight)):
        return None
    assert isinstance(weight, fx.Node) and isinstance(rows, fx.Node)
    within = list[fx.Node]()
    if weight.target in _SWAP and sorted(axis % 3 for axis in weight.args[1:] if isinstance(axis, int)) == [1, 2]:
        within.append(weight)
    param: Any = weight.args[0] if within else weight
    shape = shapes.get(str(param.target)) if isinstance(param, fx.Node) and param.op == "get_attr" else None
    if shape is None or len(shape) != 3 or weight.kwargs:
        return None
    if kind := _dtype_cast_to(rows, (param, weight)):
        within += [rows, kind]
        (rows, *_) = rows.all_input_nodes
    if any(node.meta.get(WITHOUT_GRADIENT) for node in within):
        return None
    attrs = {"transposed": weight is not param, "casts": kind is not None}
    return ComputedLayer(GROUPED, rows, {"weight": param}, attrs, tuple(within), (ends,))


def _dtype_cast_to(rows: fx.Node, weights: tuple[Any, ...]) -> fx.Node | None:
    """The read of a weight's dtype that rows are cast to; None where they are not."""
    if rows.target != "to" or len(rows.args) != 2 or rows.kwargs:
        return None
    kind = rows.args[1]
    reads = isinstance(kind, fx.Node) and kind.target is getattr and kind.args[1] == "dtype" and kind.args[0] in weights
    return kind if reads and isinstance(kind, fx.Node) else None
