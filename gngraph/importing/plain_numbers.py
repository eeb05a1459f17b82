"""Values that no data enters: masks and positions, which a forward makes of sizes alone and may then look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

_CALLS = ("call_function", "call_method")
_IN_PLACE = {"setitem", *fx.graph.inplace_methods}


def plain_numbers(
    graph: fx.Graph, known: Mapping[fx.Node, Any], last: fx.Node, modules: Mapping[str, nn.Module]
) -> dict[fx.Node, Any]:
    """What the nodes of a graph compute from sizes and constants alone, in the graph's order, for some of them write into others.

    Args:
        graph: as far as it is traced.
        known: what a run without data gave; sizes and other values that are no tensors are taken from it.
        last: the last node that is computed.
        modules: those that it calls, by path.
    """
    found: dict[fx.Node, Any] = {}
    for node in _upto(graph, last):
        value = known.get(node)
        if value is not None and not isinstance(value, (torch.Tensor, tuple, list)):
            found[node] = value
        elif node.op in _CALLS and all(source in found for source in node.all_input_nodes):
            _compute(node, found)
        elif _may_write(node, modules) and any(isinstance(found.get(x), torch.Tensor) for x in node.all_input_nodes):
            # what it writes, and whatever views that, is not plain any more
            found = {key: entry for key, entry in found.items() if not isinstance(entry, torch.Tensor)}
    return found


def _compute(node: fx.Node, found: dict[fx.Node, Any]) -> None:
    """Add what a node computes, unless it cannot be or chance enters."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
    drawn = torch.get_rng_state()
    try:
        with torch.no_grad():
            function = getattr(args[0], node.target) if isinstance(node.target, str) else node.target
            value = function(*(args[1:] if isinstance(node.target, str) else args), **kwargs)
    except Exception:  # whatever an op raises; the network itself will
        return
    if torch.equal(drawn, torch.get_rng_state()):
        found[node] = value
    else:
        torch.set_rng_state(drawn)


def _may_write(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node writes into what it reads; torch's own modules say so by their attribute `inplace`."""
    if node.op == "call_module":
        module: Any = modules[str(node.target)]
        return bool(getattr(module, "inplace", False)) or not type(module).forward.__module__.startswith("torch.nn.")
    if node.op not in _CALLS:
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _IN_PLACE or "out" in node.kwargs or "inplace" in node.kwargs or name.strip("_") + "_" == name


def _upto(graph: fx.Graph, last: fx.Node) -> Iterator[fx.Node]:
    for node in graph.nodes:
        yield node
        if node is last:
            return
