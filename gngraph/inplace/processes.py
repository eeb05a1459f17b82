"""Several processes that train one network do the same to it."""

from __future__ import annotations

import io
from typing import TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")


def agreed(value: Value) -> Value:
    """What the first process has, in every process of the default group; `value` itself where there is one process.

    Each decides by its own arithmetic, which may differ in the last bits, and then in what it chooses.

    Args:
        value: of any kind that pickles; its tensors are on the CPU afterwards.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return value
    written = io.BytesIO()
    torch.save(value, written)
    held = [written.getvalue()]
    distributed.broadcast_object_list(held)
    first: Value = torch.load(io.BytesIO(held[0]), map_location="cpu", weights_only=False)
    return first
