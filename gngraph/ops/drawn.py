"""Random numbers, each drawn by itself: any width of them is as good.

What a rewrite keeps of them is how they are distributed, as of dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gngraph.ir import Node
from gngraph.ops.rules import all_axes, broadcast_axes, broadcast_type, same_type
from gngraph.ops.spec import Call, Emitter, OpSpec, signature
from gngraph.ops.table import register


def _emit(function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    return lambda emitter, node: emitter.call(function, *(emitter.value(name) for name in node.inputs))


_LIKE = Call(signature("input device=None"), ignored=("device",))
for _function in (torch.rand_like, torch.randn_like):
    register(
        OpSpec(
            _function.__name__,
            same_type,
            all_axes,
            _emit(_function),
            channelwise=True,
            of_sizes=True,
            functions={_function: _LIKE},
        )
    )
register(
    OpSpec(
        "bernoulli",
        same_type,
        all_axes,
        _emit(torch.bernoulli),
        channelwise=True,
        nonnegative=True,
        functions=dict.fromkeys((torch.bernoulli, "bernoulli"), Call(signature("input"))),
    )
)
register(
    OpSpec(
        "normal",
        broadcast_type,
        broadcast_axes,
        _emit(torch.normal),
        channelwise=True,
        functions={torch.normal: Call(signature("mean std"), operands=("mean", "std"))},
    )
)
