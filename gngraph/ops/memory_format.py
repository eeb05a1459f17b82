"""How a value lies in memory, where a forward says so: the numbers stay, and kernels that read it differ in the last bits."""

from __future__ import annotations

import torch
from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Node
from gngraph.ops.rules import all_axes, same_type
from gngraph.ops.spec import Call, Emitter, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first

LAST_FORMATS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}
"""Formats by name; in the others values lie as they come."""


METHODS = ("to", "contiguous", "clone")
"""Methods of a tensor by which a forward asks for them."""


def in_format(input: torch.Tensor, format: str, method: str) -> torch.Tensor:
    """What stands in a trace for `input.contiguous(memory_format=...)`: the memory `format`, by name, asked for by a `method`."""
    result: torch.Tensor = getattr(input, method)(memory_format=LAST_FORMATS[format])
    return result


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    name, method = str(node.attrs["format"]), str(node.attrs["method"])
    if name not in LAST_FORMATS or method not in METHODS:
        raise IRError(f"node '{node.name}' (memory_format) asks for '{name}' by '{method}', which torch does not know")
    return emitter.method(method, emitter.value(node.inputs[0]), memory_format=LAST_FORMATS[name])


register(
    OpSpec(
        "memory_format",
        same_type,
        all_axes,
        _emit,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        functions={in_format: Call(signature("input format method"))},
    )
)
