"""The op table: which op has a name, and which one a module or a function is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from gngraph.errors import IRError
from gngraph.ir import Node, Parameter, Type
from gngraph.ops.spec import OpSpec, ReadAttrs, key_in, operands_of

_TABLE: dict[str, OpSpec] = {}
_MODULES: dict[type[nn.Module] | str, OpSpec] = {}
_FUNCTIONS: dict[Callable[..., Any] | str, OpSpec] = {}


def register(spec: OpSpec) -> OpSpec:
    """Add an op to the table. A later registration of the same module or function wins.

    Raises:
        IRError: the name is taken.
    """
    if spec.name in _TABLE:
        raise IRError(f"op '{spec.name}' is registered already")
    _TABLE[spec.name] = spec
    _MODULES.update(dict.fromkeys(spec.modules, spec))
    _FUNCTIONS.update(dict.fromkeys(spec.functions, spec))
    return spec


def lookup(op: str) -> OpSpec:
    """The spec of `op`.

    Raises:
        IRError: there is no such op.
    """
    if op not in _TABLE:
        raise IRError(f"'{op}' is not an op of gngraph's table")
    return _TABLE[op]


def spec_of_module(module: nn.Module) -> tuple[OpSpec, ReadAttrs] | None:
    """The op that a leaf module is, and what reads its attributes; None when it is traced through.

    A subclass counts as its registered base only while it inherits all of the base's behaviour in `forward`.
    """
    kind, here, calling = type(module), vars(module), {"forward", "_conv_forward", "__call__"}
    if calling & set(here) or "parametrizations" in module._modules or here.get("return_indices"):
        return None  # set on this very module, whose weights are computed anew in every call, or which gives two values
    for base in kind.__mro__:
        if (key := key_in(base, _MODULES)) in _MODULES:
            own = {name for cls in kind.__mro__[: kind.__mro__.index(base)] for name in vars(cls)}
            return None if calling & own else (_MODULES[key], _MODULES[key].modules[key])
    return None


def spec_of_function(function: Callable[..., Any] | str) -> OpSpec | None:
    """The op that a function (or tensor method, by name) is."""
    return _FUNCTIONS.get(key_in(function, _FUNCTIONS))


def traced_by_name() -> tuple[Callable[..., Any], ...]:
    """Python functions of the table that tracing would otherwise look into; torch's own stop by themselves."""
    known = (_imported(f) if isinstance(f, str) else f for f in _FUNCTIONS)
    return tuple(f for f in known if isinstance(f, FunctionType) and (f.__module__ or "").split(".")[0] != "torch")


def _imported(path: str) -> object:
    """What stands at `path`; None while nothing has imported its library, and for the name of a method."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def infer_type(node: Node, inputs: tuple[Type, ...], params: Mapping[str, Parameter]) -> Type:
    """The type of the value of `node`, by its op's type rule, from those of its `inputs` in order and from all `params` by name.

    Raises:
        IRError: the inputs or parameters do not fit the op; the message names the node.
    """
    return lookup(node.op).infer(operands_of(node, inputs, params))
