"""Inputs, parameters as values, and foreign ops: calls that gngraph carries through without understanding them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

from torch import fx

from gngraph.errors import IRError
from gngraph.ir import Node, TensorType, Type
from gngraph.ir.inputs import SHARED, SHARED_VALUE
from gngraph.ops.rules import freeze_inputs
from gngraph.ops.spec import ChannelRules, Emitter, Factor, Operands, OpSpec
from gngraph.ops.table import register

ALLOWED_MODULES = ("torch", "torchvision", "_operator", "operator", "math", "builtins")
"""Top-level packages whose functions a foreign op may name, so that loading an archive imports no other code."""

MULTIPLY_ADDS = "multiply_adds"
"""Attribute of a foreign op: what it takes for one sample, recorded when the network was traced."""

DECIDED = "decided"
"""Attribute of an input: axes that must be of the size that they had when the network was traced, which decided what is done. Of
one that all samples share, all are."""

_BUILTINS = {"getattr", "len", "int", "float", "abs", "max", "min", "sum", "round", "bool"}


def _recorded(operands: Operands) -> Type:
    """The type recorded when the network was traced; it holds because nothing that a foreign op reads may change."""
    return operands.node.type


def _input_channels(rules: ChannelRules, operands: Operands) -> None:
    """The axes of an input belong to no space."""


def _emit_input(emitter: Emitter, node: Node) -> fx.Node:
    raise IRError(f"input '{node.name}' is lowered as a placeholder, not as an op")


def _infer_input(operands: Operands) -> Type:
    type_, axes = operands.node.type, operands.node.attrs.get(DECIDED, ())
    sizes = type_.shape if isinstance(type_, TensorType) else ()
    if not isinstance(axes, tuple) or not all(
        type(a) is int and 0 <= a < len(sizes) and type(sizes[a]) is int for a in axes
    ):
        raise IRError(
            f"input '{operands.node.name}' has {DECIDED}={axes}, which are no axes of fixed size of '{type_}'"
        )
    held = operands.params.get(SHARED_VALUE)
    if held is not None and held.shape != sizes:
        raise IRError(f"input '{operands.node.name}' is of type '{type_}', but its {SHARED_VALUE} is of '{held}'")
    return type_


register(OpSpec("input", _infer_input, _input_channels, _emit_input))


def _infer_parameter(operands: Operands) -> Type:
    return operands.params["value"]


def _parameter_channels(rules: ChannelRules, operands: Operands) -> None:
    unread = rules.unread()
    for axis, size in enumerate(operands.params["value"].shape):
        if size != 1:
            rules.set(axis, rules.see("value", axis) if unread else rules.produce("value", axis))


def _emit_parameter(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.param(node.params["value"])


register(
    OpSpec(
        "parameter",
        _infer_parameter,
        _parameter_channels,
        _emit_parameter,
        channelwise=True,
        linear=True,
        reads=lambda node, role: None,
    )
)


register(OpSpec(SHARED, _infer_parameter, _input_channels, _emit_parameter))


def _foreign_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_inputs(
        rules,
        operands,
        f"it is read by '{operands.node.attrs['target']}', which is no op of the table; gngraph.ops.register teaches it one",
    )


def function_path(function: Callable[..., Any]) -> str | None:
    """Importable path of a function that a foreign op may name; None for anything else (a lambda, a user's function).

    >>> import torch
    >>> function_path(torch.einsum)
    'torch.functional.einsum'
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", None)
    if function is getattr:
        return "builtins.getattr"
    for candidate in (module, "torch", "torch.nn.functional", "torch._C._nn", "operator"):
        path = f"{candidate}.{name}"
        try:
            if candidate and name and resolve_function(path) is function:
                return path
        except IRError:
            continue
    return None


def resolve_function(path: str) -> Callable[..., Any]:
    """The function at `path`.

    Raises:
        IRError: it is not a function of the allowed packages.
    """
    module, _, name = path.rpartition(".")
    if module.split(".")[0] not in ALLOWED_MODULES or (module == "builtins" and name not in _BUILTINS):
        raise IRError(f"'{path}' is not a function that a graph may call; it must come from torch or torchvision")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise IRError(f"the function '{path}' does not exist in this installation") from error
    if not callable(function):
        raise IRError(f"'{path}' is not a function")
    checked: Callable[..., Any] = function
    return checked


def require_target(node: Node, targets: Collection[str]) -> None:
    """Refuse a node that keeps its call as a foreign op does, where that is of none of the `targets` of its op.

    Args:
        node: to be typed or lowered.
        targets: functions by their paths, methods with a dot in front.

    Raises:
        IRError: it calls something else.
    """
    target = node.attrs["target"]
    if target not in targets:
        raise IRError(f"node '{node.name}' ({node.op}) calls '{target}', which is none of {', '.join(targets)}")


def emit_one_of(targets: Collection[str]) -> Callable[[Emitter, Node], fx.Node]:
    """Lowering for an op that keeps its call as a foreign op does, but makes no other calls than of `targets`."""

    def emit(emitter: Emitter, node: Node) -> fx.Node:
        require_target(node, targets)
        return _emit_foreign(emitter, node)

    return emit


def _emit_foreign(emitter: Emitter, node: Node) -> fx.Node:
    args = emitter.resolve(node.attrs["args"])
    kwargs = emitter.resolve(node.attrs["kwargs"])
    target = str(node.attrs["target"])
    if target.startswith("."):
        return emitter.method(target[1:], *args, **kwargs)
    return emitter.call(resolve_function(target), *args, **kwargs)


def _foreign_products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    """What was recorded, which holds as the type does."""
    recorded = int(operands.node.attrs.get(MULTIPLY_ADDS, 0))
    return ((recorded,),) if recorded else ()


register(OpSpec("foreign", _recorded, _foreign_channels, _emit_foreign, products=_foreign_products))
