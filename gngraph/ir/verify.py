"""The invariants of a graph, checked at every commit in O(#nodes + #parameters)."""

from __future__ import annotations

from gngraph.errors import IRError
from gngraph.ir.arguments import check_arguments
from gngraph.ir.graph import Graph
from gngraph.ir.types import TensorType, refs_in


def verify(graph: Graph) -> None:
    """Check every invariant of `graph`.

    The invariants: names match their keys; every input, parameter and reference exists; a value is computed before it
    is read; references in attributes are listed as inputs; input nodes are exactly `graph.inputs`, typed as tensors;
    the output refers to existing values; arguments hold every input once; no alias names a parameter.

    Raises:
        IRError: the first invariant that is broken, with the node or parameter.
    """
    seen: set[str] = set()
    for key, node in graph.nodes.items():
        if key != node.name:
            raise IRError(f"node '{node.name}' is stored under the name '{key}'")
        for source in node.inputs:
            if source not in seen:
                what = "is not computed before it" if source in graph.nodes else "does not exist"
                raise IRError(f"node '{key}' reads '{source}', which {what}")
        for role, param in node.params.items():
            if param not in graph.params:
                raise IRError(f"node '{key}' reads parameter '{param}' as '{role}', which does not exist")
        for attr, value in node.attrs.items():
            for name in refs_in(value):
                if name not in node.inputs:
                    raise IRError(
                        f"node '{key}' refers to '{name}' in attribute '{attr}' but does not list it as input"
                    )
        if (node.op == "input") != (key in graph.inputs):
            raise IRError(f"node '{key}' has op '{node.op}', which does not agree with the inputs {graph.inputs}")
        if node.op == "input" and not isinstance(node.type, TensorType):
            raise IRError(f"input '{key}' has type '{node.type}'; an input must be a tensor")
        seen.add(key)
    for name in (*graph.inputs, *graph.outputs):
        if name not in seen:
            raise IRError(f"graph '{graph.name}' has '{name}' as an input or output, but no such node")
    if graph.arguments is not None:
        check_arguments(graph.arguments, graph.inputs)
    for name, parameter in graph.params.items():
        for alias, _ in parameter.aliases:
            if alias in graph.params:
                raise IRError(f"parameter '{name}' has the alias '{alias}', which is a parameter itself")
