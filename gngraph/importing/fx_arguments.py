"""What an argument of a traced call is as an attribute of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gngraph.errors import UnsupportedModelError
from gngraph.ir import Attr, DType, Flag, Items, Listed, Slice
from gngraph.ir.types import dtype_name


def attribute(arg: Any, value_of: Callable[[fx.Node], Attr], network: str) -> Attr:
    """An argument as an attribute; lists become tuples.

    Args:
        arg: what stands in the trace.
        value_of: gives what a traced node is.
        network: class of the network, which a refusal names.

    Raises:
        UnsupportedModelError: a graph cannot hold it.
    """
    if isinstance(arg, fx.Node):
        return value_of(arg)
    if isinstance(arg, (list, tuple)):
        return tuple(attribute(item, value_of, network) for item in arg)
    if isinstance(arg, slice):
        return Slice(*(attribute(bound, value_of, network) for bound in (arg.start, arg.stop, arg.step)))
    if isinstance(arg, dict):
        wrong = next((key for key in arg if not isinstance(key, str)), None)
        if wrong is not None:
            raise UnsupportedModelError(f"'{network}' makes a dictionary with the key '{wrong}', but keys must be text")
        return Items(tuple((key, attribute(value, value_of, network)) for key, value in arg.items()))
    if isinstance(arg, torch.dtype):
        return DType(dtype_name(arg))
    if arg is None or isinstance(arg, (bool, int, float, str, Flag)):
        return arg
    raise UnsupportedModelError(f"'{network}' uses the constant '{arg!r}', which a graph cannot hold")


def listed(arg: Any, attr: Callable[[Any], Attr]) -> Attr:
    """An argument of a foreign op, in which a list stays a list.

    Args:
        arg: what stands in the trace.
        attr: gives the attribute of what is neither a list nor a tuple.
    """
    if not isinstance(arg, (list, tuple)):
        return attr(arg)
    items = tuple(listed(item, attr) for item in arg)
    return Listed(items) if isinstance(arg, list) else items
