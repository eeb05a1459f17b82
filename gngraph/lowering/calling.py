"""The call of a lowered network: from arguments that are structures to the tensors in them."""

from __future__ import annotations

import inspect
import operator

import torch
from torch import fx

from gngraph.ir import Attr, Graph, Items, Ref
from gngraph.ir.arguments import Path, defaults_of, held_by, is_container, parts_of, plain_name
from gngraph.lowering.keywords import with_readable_names


def called_as_source(module: fx.GraphModule, graph: Graph) -> fx.GraphModule:
    """Let a lowered module that takes the graph's inputs one by one take what the graph's source takes.

    The graph holds what the source does with the example's constants, and with as many entries of its structures as it has. The
    module checks both.

    Args:
        module: is changed.
        graph: what it was lowered from.
    """
    if graph.arguments is None:
        return module
    steps, read = fx.Graph(), dict[fx.Node, fx.Node]()
    steps._graph_namespace.create_name("self", None)
    inputs = {str(node.target): node for node in module.graph.nodes if node.op == "placeholder"}
    defaults = defaults_of(graph.arguments)
    given = {
        name: steps.placeholder(name.removesuffix("="), default_value=defaults.get(name, inspect.Signature.empty))
        for name, _ in graph.arguments.pairs
    }
    for name, argument in graph.arguments.pairs:
        values: dict[Path, fx.Node] = {(): given[name]}
        for path, part in parts_of(argument):
            if path:
                values[path] = steps.call_function(operator.getitem, (values[path[:-1]], path[-1]))
            if isinstance(part, Ref):
                read[inputs[part.name]] = values[path]
                continue
            held = values[path]
            if is_container(part):
                held = steps.call_function(len, (held,))
                held.meta["is_wrapped"] = True  # so that torch.fx records the call where it reads a saved module
            compared = operator.is_ if part is None or isinstance(part, bool) else operator.eq
            same = steps.call_function(compared, (held, len(held_by(part)) if is_container(part) else part))
            steps.call_function(torch._assert, (same, mismatch(name, path, part)))
    steps.output(steps.graph_copy(module.graph, read))
    module.graph = with_readable_names(steps)
    return module


def mismatch(name: str, path: Path, part: Attr) -> str:
    """What is said where an argument is not what the graph was made for.

    Args:
        name: of the argument.
        path: of the part that differs.
        part: what stands there in the example.

    >>> mismatch("batch", ("mode",), "train")
    "batch['mode'] must be 'train', as in the example that the network was imported with"
    """
    where = plain_name(name) + "".join(f"[{key!r}]" for key in path)
    kind = "entries, " + ", ".join(str(key) for key, _ in part.pairs) if isinstance(part, Items) else "items"
    what = f"have {len(held_by(part))} {kind}," if is_container(part) else f"be {part!r},"
    return f"{where} must {what} as in the example that the network was imported with"
