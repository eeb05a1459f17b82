"""Copies of a user's module: everything that an import runs, traces or changes is a copy, so that the module stays as it is."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gngraph.errors import UnsupportedModelError
from gngraph.importing.examples import read_as
from gngraph.importing.shapes import without_value
from gngraph.importing.wrappers import bare

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)
"""What may be shared by a copy: values that nothing changes."""


_TABLES = ("_parameters", "_buffers", "_modules")
"""Attributes of a module that hold its tensors and modules."""

_COPYING = {
    "__deepcopy__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__slots__",
}
"""What a class may define that changes how it is copied."""


def copy_of(module: nn.Module) -> nn.Module:
    """A copy with tensors of its own, in which what wraps modules is left out.

    Raises:
        UnsupportedModelError: the module holds something that cannot be copied.
    """
    return _copied(module, _own)


class Guard:
    """Sees to it that a module and a copy of it hold what they held when the guard was made.

    Args:
        module: the module.
        own: the copy, in which what wraps modules is left out.
    """

    def __init__(self, module: nn.Module, own: nn.Module) -> None:
        self._both = dict(_held(module)), dict(_held(own))
        self._versions = [{name: _version(x) for name, x in held.items()} for held in self._both]
        # copied, for torch moves running statistics without counting a version
        self._buffers = {
            name: x.detach().clone() for name, x in self._both[0].items() if not isinstance(x, nn.Parameter)
        }

    def restore(self) -> list[str]:
        """Put back what has changed; the names of what had changed of the module."""
        changed: list[str] = []
        with torch.no_grad():
            for place, (versions, one, other) in enumerate(
                zip(self._versions, self._both, self._both[::-1], strict=True)
            ):
                for name, tensor in one.items():
                    buffer = self._buffers.get(name)
                    if _version(tensor) != versions[name] if buffer is None else not _equal(tensor, buffer):
                        tensor.copy_(other[name] if buffer is None else buffer)
                        changed += [name] if place == 0 else []
        return changed

    def updated(self) -> str | None:
        """A parameter that a forward has changed past what is traced, as `for p in teacher.parameters(): p.mul_(0.99)` does."""
        module, own = self._both
        held = ((name, x) for name, x in own.items() if isinstance(x, nn.Parameter) and not (x.is_meta or is_lazy(x)))
        return next((name for name, x in held if not _equal(x, module[name])), None)


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was changed; one made in inference mode is not changed outside, and has no count."""
    return 0 if tensor.is_inference() else tensor._version


def _held(module: nn.Module, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by the names that a copy has for them."""
    module = bare(module)
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield f"{path}{key}", tensor
    for key, child in module._modules.items():
        if child is not None:
            yield from _held(child, f"{path}{key}.")


def on_shared_tensors(module: nn.Module) -> nn.Module:
    """A copy that reads the same parameters and buffers, with modes, caches and counters of its own; nothing may train it."""
    return _copied(module, lambda tensor: tensor)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes and no values."""
    return _copied(module, meta_twin)


def take_values(module: nn.Module) -> None:
    """Put tensors without values in the places of a module's parameters and buffers; those themselves stay as they are."""
    # with what they stand for, whose id none other may get meanwhile
    twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for child in module.modules():
        for table in (child._parameters, child._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in twins:
                        twins[id(tensor)] = tensor, meta_twin(tensor)
                    table[key] = twins[id(tensor)][1]  # type: ignore[assignment]


def meta_twin(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape without values; a parameter stays one."""
    twin = without_value(tensor)
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b) or bool(torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return copy.deepcopy(tensor)
    return tensor.detach().clone()


def _copied(module: nn.Module, tensor_for: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    memo: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for child in module.modules():
            for tensor in (*child._parameters.values(), *child._buffers.values()):
                if tensor is not None and id(tensor) not in memo:
                    memo[id(tensor)] = tensor_for(tensor)
        for tensor in _computed_tensors(module):
            memo.setdefault(id(tensor), tensor.detach().clone())
        try:
            return _module_copy(bare(module), memo)
        except Exception as error:  # whatever an attribute raises that cannot be copied
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UnsupportedModelError(
                f"'{type(module).__name__}' cannot be copied, and an import works on a copy: {reason}; take what cannot be "
                f"copied off the module first"
            ) from error


def _computed_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that a forward has left in an attribute, with what they were computed from: torch copies no such tensor."""
    for child in module.modules():
        for name, value in vars(child).items():
            if name in _TABLES:
                continue
            items = value.values() if type(value) is dict else value if type(value) in (list, tuple) else (value,)
            yield from (item for item in items if isinstance(item, torch.Tensor) and not item.is_leaf)


def _module_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """As `copy.deepcopy`, which spends most of its time on tables of hooks that are empty."""
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    kind = type(module)
    if _copies_itself(kind):
        return read_as(copy.deepcopy(module, memo), module)
    twin: nn.Module
    twin = memo[id(module)] = object.__new__(kind)
    held = vars(twin)
    for name, value in vars(module).items():
        if isinstance(value, _PLAIN) or (type(value) is tuple and all(isinstance(item, _PLAIN) for item in value)):
            held[name] = value
        elif name in ("_parameters", "_buffers"):
            held[name] = {key: None if tensor is None else memo[id(tensor)] for key, tensor in value.items()}
        elif name == "_modules":
            held[name] = {
                key: None if child is None else _module_copy(bare(child), memo) for key, child in value.items()
            }
        elif name == "_compiled_call_impl":
            held[name] = None  # of module.compile(): it would run the module, not the copy
        elif type(value) in (dict, OrderedDict, set, list) and not value:
            held[name] = type(value)()
        elif isinstance(value, nn.Module):  # hidden from the tree of modules
            held[name] = _module_copy(value, memo)
        else:
            held[name] = copy.deepcopy(value, memo)
    return twin


def _copies_itself(kind: type) -> bool:
    """Whether a class says how it is copied."""
    return any(not _is_torchs(base) and not _COPYING.isdisjoint(vars(base)) for base in kind.__mro__)


def _is_torchs(kind: type) -> bool:
    """Whether a class is torch's own of modules, whose ways to copy are that of every object."""
    return kind is object or kind.__module__.startswith("torch.nn.modules.")
