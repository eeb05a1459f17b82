"""What a module keeps in Python between its runs: counters and schedules, which a graph would hold as they are at import."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from numbers import Number
from types import CellType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError

_DEEP = 4
"""How far attributes of attributes are followed."""
_LONG = 64
"""Entries of a list or dictionary that are read: more are data, and a list may grow with every run."""
_OPAQUE = (nn.Module, torch.Tensor, ModuleType, type, str, bytes)


class HeldInPython:
    """The numbers that a module's attributes, its classes and the globals of their forward hold, as they are now.

    Args:
        module: the module, of which torch's own classes are left out.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._numbers = dict(_numbers(module))

    def check(self, network: str) -> None:
        """Compare with what they are by now.

        Args:
            network: how a message names the module.

        Raises:
            UnsupportedModelError: one has changed.
        """
        for name, value in _numbers(self._module):
            before = self._numbers.get(name)
            if before != value and value == value:  # one that is no number (NaN) equals nothing
                raise UnsupportedModelError(
                    f"'{network}' changes '{name}' whenever it runs in train mode, which a graph would hold as it is now; set it "
                    f"from outside of forward, or leave it out"
                )


def _numbers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    classes: dict[type, None] = {}
    for path, child in module.named_modules():
        for key, value in vars(child).items():
            yield from _within(f"{path}.{key}".strip("."), value, _DEEP)
        classes |= dict.fromkeys(kind for kind in type(child).__mro__ if not _of_torch(kind))
    seen: dict[str, None] = {}
    for kind in classes:
        for key, value in vars(kind).items():
            if not key.startswith("__"):
                yield from _within(f"{kind.__name__}.{key}", value, _DEEP)
        forward = vars(kind).get("forward")
        if isinstance(forward, FunctionType):
            for name in forward.__code__.co_names:
                place = f"{forward.__module__}.{name}"
                if name in forward.__globals__ and place not in seen:
                    seen[place] = None
                    yield from _within(place, forward.__globals__[name], _DEEP)


def _within(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The numbers in a value, by the way there."""
    if isinstance(value, Number):
        yield name, value
    elif isinstance(value, count):
        yield name, int(value.__reduce__()[1][0])
    elif depth and not isinstance(value, _OPAQUE) and not _of_torch(type(value)):
        if isinstance(value, FunctionType):
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            entries = [(f"{name}.{key}", cell.cell_contents) for key, cell in cells if cell != CellType()]
            entries += [(f"{name}.__defaults__[{i}]", entry) for i, entry in enumerate(value.__defaults__ or ())]
        elif isinstance(value, dict):
            entries = [(f"{name}[{key!r}]", entry) for key, entry in list(value.items())[:_LONG]]
        elif isinstance(value, (list, tuple)):
            entries = [(f"{name}[{i}]", entry) for i, entry in enumerate(value[:_LONG])]
        else:
            entries = [(f"{name}.{key}", entry) for key, entry in getattr(value, "__dict__", {}).items()]
        for place, entry in entries:
            yield from _within(place, entry, depth - 1)


def _of_torch(kind: type) -> bool:
    return kind is object or kind.__module__.partition(".")[0] in {"torch", "torchvision"}
