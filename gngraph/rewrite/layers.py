"""Layers of a graph, as morphisms of structure see them: what may be replaced, and where what belongs to a layer ends."""

from __future__ import annotations

from gngraph.errors import PassError
from gngraph.ir import Graph, Node
from gngraph.ops import lookup


def layers_of(graph: Graph) -> tuple[str, ...]:
    """Names of the nodes that multiply what they read by a weight: convolutions and linear layers, in order."""
    nodes = graph.nodes.values()
    return tuple(node.name for node in nodes if "weight" in node.params and lookup(node.op).apply is not None)


def called(graph: Graph, name: str) -> str:
    """What people call a node: its module, or its name."""
    return graph.nodes[name].module or name


def held_by_others(graph: Graph, node: Node) -> str | None:
    """Why the parameters of a layer may not change their shape for it alone, or None."""
    for param in node.params.values():
        readers = {name for name, _ in graph.readers(param)}
        if len(readers) > 1 or graph.params[param].aliases:
            other = next((name for name in readers if name != node.name), graph.params[param].aliases[:1] or node.name)
            return f"its '{param}' is also that of '{other if isinstance(other, str) else other[0][0]}'"
    return None


def end_of_unit(graph: Graph, layer: str) -> str:
    """The last value that belongs to a layer: behind the norm and the non-linearity that alone read it.

    >>> import torch, gngraph
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> end_of_unit(gngraph.from_torch(net.eval(), torch.zeros(1, 1, 8, 8)), "_0")
    '_2'
    """
    value = layer
    while value not in graph.outputs:
        readers = graph.users(value)
        node = graph.nodes[readers[0]] if len(readers) == 1 else None
        if node is None or node.inputs != (value,) or node.type != graph.nodes[value].type:
            break
        spec = lookup(node.op)
        if not spec.channelwise or spec.apply is not None:
            break
        value = node.name
    return value


def require(told: str | None, what: str) -> None:
    """PassError unless there is no reason against it.

    Args:
        told: the reason.
        what: is refused, with the name of the node.
    """
    if told is not None:
        raise PassError(f"{what}: {told}")
