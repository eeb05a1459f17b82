"""Several processes that train one network do the same to it."""

from __future__ import annotations

from typing import TypeVar

from gngraph.ranks import default_group

Value = TypeVar("Value")


def agreed(value: Value) -> Value:
    """What the first process has, in every process of the default group; `value` itself where there is one process.

    Each decides by its own arithmetic, which may differ in the last bits, and then in what it chooses.

    Args:
        value: of any kind that pickles; its tensors are on the CPU afterwards.
    """
    return default_group().agreed(value)
