"""Reading torch.fx calls that add products over samples times heads to a mask, as `gngraph.ops.added_products` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from gngraph.importing.fx_calls import Flags
from gngraph.importing.fx_computed import ComputedLayer
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ops.added_products import ADDED_PRODUCTS


def added_layer(fx_node: fx.Node, shapes: Mapping[str, torch.Size], flags: Flags) -> ComputedLayer | None:
    """The op that a call ends, if it takes heads apart from samples behind `torch.baddbmm`; None for other calls.

    Args:
        fx_node: a call.
        shapes, flags: as for other layers; these have no parameters, and no modes.
    """
    if fx_node.target != "unflatten" or fx_node.kwargs or len(fx_node.args) != 3:
        return None
    products, axis, sizes = fx_node.args
    if axis != 0 or not isinstance(sizes, (tuple, list)) or len(sizes) != 2 or sizes[0] != -1:
        return None
    if not isinstance(products, fx.Node) or products.target is not torch.baddbmm or products.kwargs:
        return None
    if len(products.args) != 3 or not isinstance(products.args[0], fx.Node):
        return None
    mask, *factors = products.args
    a, b = (_behind(value, "flatten", (0, 1)) for value in factors)
    each = _behind(mask, "flatten", (0, 1))
    spread = None if each is None else _behind(each, "expand", (-1, sizes[1], -1, -1))
    within: list[Any] = [products, *factors, *([] if spread is None else [mask, each])]
    if a is None or b is None or any(node.meta.get(WITHOUT_GRADIENT) for node in within):
        return None
    attrs, source = {"spread": spread is not None}, mask if spread is None else spread
    assert isinstance(source, fx.Node)
    return ComputedLayer(ADDED_PRODUCTS, source, {}, attrs, tuple(within), (a, b))


def _behind(value: Any, method: str, args: tuple[Any, ...]) -> Any:
    """What a method is called on with these arguments; None for other calls."""
    plain = isinstance(value, fx.Node) and value.target == method and not value.kwargs
    return value.args[0] if plain and tuple(value.args[1:]) == args else None
