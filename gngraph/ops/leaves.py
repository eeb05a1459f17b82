"""Modules of torch's that a lowering fills with a graph's tensors: made once of a kind, and copied."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn


def leaf(make: Callable[..., Any], *args: Any, **options: Any) -> nn.Module:
    """What `make` gives, a module without children, on the meta device: its tensors are there to be replaced.

    Torch draws initial values on that device too, in Python, which takes longer than all else that a lowering does.

    Args:
        make: a class of torch's.
        args: its arguments.
        options: more of them, by name.

    >>> leaf(nn.Linear, 3, 4, bias=False)
    Linear(in_features=3, out_features=4, bias=False)
    """
    model = _model(make, *args, **options)
    copied = object.__new__(type(model))
    vars(copied).update({key: x.copy() if isinstance(x, (dict, list, set)) else x for key, x in vars(model).items()})
    return copied


@lru_cache(maxsize=1024, typed=True)
def _model(make: Callable[..., Any], *args: Any, **options: Any) -> nn.Module:
    made: nn.Module = make(*args, device="meta", **options)
    return made
