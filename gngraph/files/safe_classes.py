"""Which module classes a file may hold without being trusted, and what their instances may carry.

The list is the nn.Module classes that torch.nn.modules, torchvision.models, torchvision.ops and gngraph.zoo define.
"Any nn.Module subclass" would be wrong: torch.fx.GraphModule is one, and unpickling it runs source code.
"""

from __future__ import annotations

import importlib
import inspect

import torch
from torch import fx, nn

PACKAGES = (
    "torch.nn.modules",
    "torch.nn.parallel.data_parallel",
    "torchvision.models",
    "torchvision.ops",
    "gngraph.zoo",
)
MAX_LEVELS = 200
"""Deepest nesting of modules; the deepest torchvision classifier has 9 levels."""


MAX_CALLS = 100_000
"""Most modules that one pass through a network may run; the largest torchvision classifier runs 1,000."""


def allowed_class(path: str) -> type[nn.Module] | None:
    """The module class called `path` (`module.name`) if it is on the allow-list, else None.

    Imports the submodule of the listed package that `path` names.

    >>> allowed_class("torch.nn.modules.linear.Linear")
    <class 'torch.nn.modules.linear.Linear'>
    >>> allowed_class("torch.fx.graph_module.GraphModule") is None
    True
    """
    module_name, _, name = path.rpartition(".")
    if not any(module_name == package or module_name.startswith(f"{package}.") for package in PACKAGES):
        return None
    try:
        found = vars(importlib.import_module(module_name)).get(name)
    except ImportError:
        return None
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and found.__module__ == module_name):
        return None
    return None if issubclass(found, fx.GraphModule | torch.jit.ScriptModule) else found


def find_tampering(module: nn.Module) -> str | None:
    """What an instance of listed classes carries that `torch.save` of an honest one would not, or None.

    A pickle sets instance attributes freely, so it can replace a method or leave a hook, which would run later.
    """
    problem = _find(module, "", set(), set())
    if problem is None and (calls := _calls(module, {})) > MAX_CALLS:
        return f"runs its shared modules {calls:.3g} times"
    return problem


def _calls(module: nn.Module, known: dict[int, int]) -> int:
    """How often modules run, each as often as it is held: sharing two by two doubles it at every level."""
    if id(module) not in known:
        known[id(module)] = 1 + sum(_calls(child, known) for child in module._modules.values() if child is not None)
    return known[id(module)]


def _find(module: nn.Module, path: str, ancestors: set[int], done: set[int]) -> str | None:
    if id(module) in ancestors:
        return f"contains {_where(path)} inside itself"
    if len(ancestors) >= MAX_LEVELS:
        return f"nests modules more than {MAX_LEVELS} levels deep"
    if id(module) in done:
        return None
    problem = _find_here(module, path)
    if problem:
        return problem
    inside = ancestors | {id(module)}
    for name, child in module._modules.items():
        if child is not None:
            problem = _find(child, f"{path}.{name}" if path else str(name), inside, done)
            if problem:
                return problem
    done.add(id(module))
    return None


def _find_here(module: nn.Module, path: str) -> str | None:
    attributes = vars(module)
    for key, value in attributes.items():
        if callable(getattr(type(module), key, None)) or (key == "_compiled_call_impl" and value is not None):
            return f'replaces the method "{key}" of {_where(path)}'
        if isinstance(value, nn.Module):
            # Registered children stand in _modules; one out here would be called without having been looked at.
            return f'hides a module as the attribute "{key}" of {_where(path)}'
        if key.endswith("_hooks") and value:
            return f"has hooks on {_where(path)}"
    for table, kind in (("_parameters", nn.Parameter), ("_buffers", torch.Tensor), ("_modules", nn.Module)):
        entries = attributes.get(table)
        if not isinstance(entries, dict) or not all(v is None or isinstance(v, kind) for v in entries.values()):
            return f'has a malformed "{table}" on {_where(path)}'
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None and tensor._backward_hooks:
            return f"has hooks on a tensor of {_where(path)}"
    return None


def _where(path: str) -> str:
    return f'its submodule "{path}"' if path else "the network itself"
