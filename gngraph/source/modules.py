"""How a torch module that a graph is lowered to is constructed in source code, read off its class's signature."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gngraph.errors import IRError
from gngraph.ops.spec import REQUIRED
from gngraph.source.text import Argument, Build, Hole, checked_name

_WIDTHS = {
    "in_channels",
    "out_channels",
    "num_features",
    "in_features",
    "out_features",
    "num_channels",
    "normalized_shape",
    "num_parameters",
    "embedding_dim",
    "input_size",
}
_SPATIAL = {"kernel_size", "stride", "padding", "dilation", "output_size"}
"""Arguments for which one int stands for the same int on every axis."""
_KEPT_AS = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}
"""Arguments that an attention module keeps under other names."""
_NOT_WRITTEN = {"device", "dtype", "inplace", "_weight", "_freeze", "min_value", "max_value"}


@dataclass
class Imports:
    """Functions and classes outside torch's usual names that the source imports: local name -> (module, name)."""

    names: dict[str, tuple[str, str]] = field(default_factory=dict)

    def use(self, module: str, name: str) -> str:
        """The local name of `module.name`."""
        for part in (*module.split("."), name):
            checked_name(part, "the imported name")
        local = name
        while self.names.setdefault(local, (module, name)) != (module, name):
            local += "_"
        return local

    def lines(self) -> Iterator[str]:
        """The import statements, sorted."""
        for local, (module, name) in sorted(self.names.items(), key=lambda item: (item[1], item[0])):
            yield f"from {module} import {name}" + (f" as {local}" if local != name else "")


def construct(module: nn.Module, label: str, imports: Imports) -> Build:
    """The constructor call that gives a module like `module`: its class's arguments, read from the attributes.

    Args:
        module: a leaf module of a lowered graph.
        label: its path inside the class that constructs it, for the names of arguments.
        imports: takes a class that `torch.nn` does not have.

    Raises:
        IRError: the class takes an argument that the module does not keep as an attribute.
    """
    kind = type(module)
    if getattr(nn, kind.__name__, None) is kind:
        callee = f"nn.{kind.__name__}"
    else:
        callee = imports.use(public_module(kind), kind.__name__)
    return Build(callee, tuple(_arguments(module, label)))


def public_module(thing: Any) -> str:
    """The package that offers a class or function under its own name, as near to the top as its parent goes."""
    own = str(thing.__module__)
    parent = own.rpartition(".")[0]
    offered = parent and getattr(importlib.import_module(parent), thing.__name__, None) is thing
    return parent if offered else own


def _arguments(module: nn.Module, label: str) -> Iterator[Argument]:
    for name, parameter in _constructor(module):
        if name in _NOT_WRITTEN or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        value = _value(module, name, parameter.default)
        kind = "width" if name in _WIDTHS or _is_depthwise(module, name) else name
        hole = Hole(kind, f"{label}.{name}", value)
        yield Argument(hole, "" if required else name, REQUIRED if required else parameter.default)


def _constructor(module: nn.Module) -> list[tuple[str, inspect.Parameter]]:
    """The arguments of a module's class; a recurrent layer's are those of its base, and what it adds itself."""
    kind = nn.RNNBase if isinstance(module, nn.RNNBase) else type(module)
    known = dict(list(inspect.signature(kind.__init__).parameters.items())[1:])
    if isinstance(module, nn.RNNBase):
        del known["mode"]
    if isinstance(module, nn.RNN):
        known["nonlinearity"] = inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")
    return list(known.items())


def _value(module: Any, name: str, default: Any) -> Any:
    if not hasattr(module, name):
        name = _KEPT_AS.get(name, name)
    if not hasattr(module, name):
        raise IRError(
            f"a module of class '{type(module).__name__}' does not keep its argument '{name}' as an attribute, so the "
            f"graph cannot be written as Python source; lower it to another class (its op's rule `emit`)"
        )
    value = getattr(module, name)
    if isinstance(default, bool) and (value is None or isinstance(value, torch.Tensor)):
        return value is not None  # bias=True is kept as the bias itself
    if name == "stride" and hasattr(module, "kernel_size") and default is None and value == module.kernel_size:
        return None
    if name == "normalized_shape" and len(value) == 1:
        return value[0]
    if name in _SPATIAL and isinstance(value, (tuple, list)) and len(set(value)) == 1:
        return value[0]
    return tuple(value) if isinstance(value, list) else value


def _is_depthwise(module: Any, name: str) -> bool:
    return name == "groups" and module.groups > 1 and module.groups == getattr(module, "in_channels", None)
