"""Reading torch.fx nodes: arguments by name, in-place calls, the module whose forward runs a node."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from gngraph.ir import Flag
from gngraph.ops import Call, spec_of_function
from gngraph.ops.spec import REQUIRED

_OTHER_NAMES = {
    "axis": "dim",
    "keepdims": "keepdim",
    "split_size": "sizes",
    "split_size_or_sections": "sizes",
    "tensor": "input",
}
"""Names that torch has for arguments beside those of the op table."""

Flags = Mapping[tuple[str, int | str], Flag]
"""(node name, argument position or name) -> what stands there in either mode."""


def scopes(traced: fx.Graph, leaves: Collection[str] = ()) -> dict[fx.Node, str]:
    """The path of the module whose forward runs each node; a leaf module has none, though an attribute may be read in its call.

    Args:
        traced: the graph.
        leaves: further modules that are one node each.
    """
    leaves = {*leaves, *(str(node.target) for node in traced.nodes if node.op == "call_module")}
    result = {}
    for node in traced.nodes:
        stack = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
        result[node] = next((path for path in reversed(stack) if path not in leaves), "")
    return result


def bind(call: Call, fx_node: fx.Node, flags: Flags) -> dict[str, Any] | None:
    """Arguments of a call by name with defaults; None when they do not fit the signature.

    Args:
        call: what the function or method is to the op that it stands for.
        fx_node: the traced call.
        flags: arguments that differ between the modes; they take the place of what the trace recorded.
    """
    names = [name for name, _ in call.signature]
    keys = {key: key if key in names else _OTHER_NAMES.get(key, key) for key in fx_node.kwargs}
    if len(fx_node.args) > len(names) or any(name not in names for name in keys.values()):
        return None
    bound = dict(call.signature)
    given: list[tuple[str, int | str, Any]] = [(names[i], i, arg) for i, arg in enumerate(fx_node.args)]
    given += [(keys[key], key, arg) for key, arg in fx_node.kwargs.items()]
    for name, key, arg in given:
        bound[name] = flags.get((fx_node.name, key), arg)
    return None if any(value is REQUIRED for value in bound.values()) else bound


def dispatched(function: Any) -> Any:
    """The public function behind torch's boolean_dispatch (F.max_pool2d and its kin)."""
    plain = inspect.getclosurevars(function).nonlocals.get("if_false")
    name = getattr(plain, "__name__", "").lstrip("_")
    return getattr(torch.nn.functional, name, plain)


def is_inplace(target: Any, fx_node: fx.Node) -> bool:
    """Whether a call changes what it reads, by its name or by an argument `inplace`."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if fx_node.kwargs.get("inplace") is True or (name.endswith("_") and not name.endswith("__")):
        return True
    if name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
        return True
    spec = spec_of_function(target)
    call = spec.call_of(target) if spec else None
    names = [n for n, _ in call.signature] if call else []
    return (
        "inplace" in names
        and len(fx_node.args) > names.index("inplace")
        and fx_node.args[names.index("inplace")] is True
    )
