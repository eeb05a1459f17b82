"""Sizes that a network must be run with, since they decided what its graph holds."""

from __future__ import annotations

import torch
from torch import fx

from gngraph.errors import DataError


@fx.node.has_side_effect
def expect_size(x: torch.Tensor, name: str, axis: int, size: int) -> None:
    """Refuse an input of another size.

    Args:
        x: the input.
        name: what the graph calls it.
        axis: of the input, counted from 0.
        size: that it must have along this axis.

    Raises:
        DataError: it has another.
    """
    if x.size(axis) != size:
        raise DataError(
            f"{told(name, axis, size)}, not {x.size(axis)}; import the network with an example of that size"
        )


def told(name: str, axis: int, size: int) -> str:
    """The rule in words.

    Args:
        name, axis, size: as for `expect_size`.

    >>> told("x", 1, 10)
    "input 'x' must have 10 entries along axis 1, a size that decided what the network does"
    """
    return f"input '{name}' must have {size} entries along axis {axis}, a size that decided what the network does"
