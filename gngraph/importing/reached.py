"""What a forward reaches past its module: in closures, globals, classes. No copy of a module has these for itself."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import fx, nn

_LOOKED_AT = 10_000
"""Objects among which generators of random numbers and variables are looked for."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, nn.Module, ModuleType)
"""What is not looked into."""


class Reached:
    """Generators of random numbers and variables that a module and its forwards hold, and what they were when this was made.

    They are looked for in attributes, containers and bound methods, and in what functions refer to: in closures, among their
    globals, and in the classes of modules.

    Args:
        module: with all modules in it.

    Attributes:
        functions: those among them that are written in Python, but for torch's.
        tensors: those among them that are no parameters, each with the name of the attribute that leads to it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.functions: list[FunctionType] = []
        self.tensors: list[tuple[str, torch.Tensor]] = []
        self._generators: dict[str, Any] = {}
        self._put_back: list[Callable[[], None]] = []
        seen: set[int] = set()
        waiting = list(_roots(module))
        for name, value in waiting:  # which grows on the way
            if isinstance(value, _PLAIN) or id(value) in seen or len(seen) > _LOOKED_AT:
                continue
            seen.add(id(value))
            if isinstance(value, torch.Tensor):
                self.tensors += [] if isinstance(value, nn.Parameter) else [(name, value)]
                continue
            if isinstance(value, FunctionType) and not _is_torchs(value):
                self.functions.append(value)
            state = _state_of(value)
            if state is not None:
                self._generators[f"{name} ({type(value).__module__}.{type(value).__name__})"] = value
                self._put_back.append(partial(_set_state, value, state))
            else:
                self._put_back += _restorers(value)
                waiting += [(name, item) for item in _held_by(value)]
        self._before = self._states()

    def moved(self) -> list[str]:
        """The generators that have drawn since then, each by the name of the attribute that leads to it and its kind."""
        now = self._states()
        return [name for name, state in self._before.items() if now[name] != state]

    def restore(self) -> None:
        """Put back what has changed."""
        for put_back in self._put_back:
            put_back()

    def _states(self) -> dict[str, Hashable]:
        return {name: repr(_state_of(generator)) for name, generator in self._generators.items()}


def _roots(module: nn.Module) -> Iterator[tuple[str, Any]]:
    kinds: dict[type, None] = {}
    for path, child in module.named_modules():
        for key, value in vars(child).items():
            if not key.startswith("_") and not isinstance(value, (*_PLAIN, fx.Proxy)):
                yield f"{path}.{key}".strip("."), value
        for kind in type(child).__mro__:
            if kind not in kinds and not _is_torchs(kind):
                kinds[kind] = None
                yield f"{path}.forward".strip("."), kind


def _is_torchs(value: Any) -> bool:
    module = getattr(value, "__module__", None) or "torch"
    return module in ("builtins", "torch", "typing") or module.startswith(("torch.", "torchvision."))


def _state_of(value: Any) -> Any:
    """The state of a generator of random numbers; None of anything else, and of one that has none."""
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if isinstance(value, random.Random):
        return None if isinstance(value, random.SystemRandom) else value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if kind == "numpy.random._generator.Generator":
        return value.bit_generator.state
    return value.get_state() if kind == "numpy.random.mtrand.RandomState" else None


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, torch.Generator):
        generator.set_state(torch.tensor(state, dtype=torch.uint8))
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _held_by(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list, tuple, set)):
        yield from islice(_plainly(value).values() if isinstance(value, dict) else value, _LOOKED_AT)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, (MethodType, BuiltinFunctionType)):
        yield value.__self__
        yield getattr(value, "__func__", None)
    elif isinstance(value, FunctionType) and not _is_torchs(value):
        for cell in value.__closure__ or ():
            yield cell
            yield _content(cell)
        yield from (value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__)
    elif isinstance(value, type) and issubclass(value, nn.Module) and not _is_torchs(value):
        yield from vars(value).values()
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__


def _restorers(value: Any) -> Iterator[Callable[[], None]]:
    """What puts back the variables that something has, if it has any."""
    if isinstance(value, list):
        yield partial(_put_back_list, value, list(value))
    elif isinstance(value, dict):
        yield partial(_put_back_table, value, _plainly(value))
    elif isinstance(value, set):
        yield partial(_put_back_set, value, set(value))
    elif isinstance(value, CellType):
        yield partial(_put_back_cell, value, _content(value))
    elif isinstance(value, FunctionType) and not _is_torchs(value):
        names = [name for name in value.__code__.co_names if name in value.__globals__]
        yield partial(_put_back_names, value.__globals__, {name: value.__globals__[name] for name in names})
    elif isinstance(value, type) and issubclass(value, nn.Module) and not _is_torchs(value):
        yield partial(_put_back_class, value, dict(vars(value)))
    elif hasattr(value, "__dict__") and not callable(value) and not _is_torchs(type(value)):
        yield partial(_put_back_table, vars(value), dict(vars(value)))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _put_back_list(value: list[Any], held: list[Any]) -> None:
    if len(value) != len(held) or any(a is not b for a, b in zip(value, held, strict=True)):
        value[:] = held


def _plainly(table: dict[Any, Any]) -> dict[Any, Any]:
    """What a table holds, be it of a kind that makes something else of its items when they are read."""
    return dict(_kind_of(table).items(table))


def _kind_of(table: dict[Any, Any]) -> Any:
    return OrderedDict if isinstance(table, OrderedDict) else dict


def _put_back_table(value: dict[Any, Any], held: dict[Any, Any]) -> None:
    now = _plainly(value)
    if now.keys() != held.keys() or any(now[key] is not item for key, item in held.items()):
        kind = _kind_of(value)
        kind.clear(value)
        for key, item in held.items():
            kind.__setitem__(value, key, item)


def _put_back_set(value: set[Any], held: set[Any]) -> None:
    if value != held:
        value.clear()
        value.update(held)


def _put_back_cell(value: CellType, held: Any) -> None:
    if _content(value) is not held:
        value.cell_contents = held


def _put_back_names(value: dict[str, Any], held: dict[str, Any]) -> None:
    value.update({name: item for name, item in held.items() if value.get(name) is not item})


def _put_back_class(value: type, held: dict[str, Any]) -> None:
    now = dict(vars(value))
    for name, item in held.items():
        if now.get(name) is not item:
            setattr(value, name, item)
    for name in now.keys() - held.keys():
        delattr(value, name)
