"""A network as people draw it, layer by layer with what each reads, and as a networkx graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import multiply_adds_of
from gngraph.ir import BATCH, Graph, TensorType
from gngraph.ir.graph import checked
from gngraph.ops import lookup


@dataclass(frozen=True)
class Layer:
    """A node that is drawn, with the norms, activations and reshapes behind it, which are not.

    Attributes:
        name: of the node.
        op: its op.
        width: entries of its channel axis; of its axis 1 or last where it has no channels.
        shape: of its value for one sample, such as "16x28x28"; of several, of the first that is read.
        params: entries of the nn.Parameters that it and what belongs to it read.
        flops: for one sample, a multiply-add as two.
        space: the channel space of its channels; None where it has none, or several beside each other.
        frozen: why none of its channels may change; None where some may.
        reads: names of the layers whose values it reads, in order.
    """

    name: str
    op: str
    width: int
    shape: str
    params: int
    flops: int
    space: str | None
    frozen: str | None
    reads: tuple[str, ...]


def outline(graph: Graph) -> tuple[Layer, ...]:
    """The layers of a graph in data-flow order: inputs, nodes with weights, and nodes that join several layers.

    O(#nodes + #parameters). A parameter that several layers read counts in the first.

    Args:
        graph: with or without values.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> from gngraph import from_torch
    >>> [(layer.op, layer.width, layer.params) for layer in outline(from_torch(net, torch.zeros(1, 4)))]
    [('input', 4, 0), ('linear', 8, 40), ('linear', 2, 18)]
    """
    spaces = ChannelSpaces.of(checked(graph))
    stands: dict[str, tuple[str, ...]] = {}
    members: dict[str, list[str]] = {}
    reads: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes.values():
        sources = [] if lookup(node.op).of_sizes else [name for source in node.inputs for name in stands[source]]
        before = tuple(dict.fromkeys(sources))
        weighs = any(graph.params[param].data.dim() > 1 for param in node.params.values())
        if node.op == "input" or (weighs and node.op != "parameter") or len(before) > 1:
            stands[node.name], reads[node.name], members[node.name] = (node.name,), before, [node.name]
            continue
        stands[node.name] = before
        for name in before:
            members[name].append(node.name)
    counted: set[str] = set()
    return tuple(_layer(graph, spaces, name, members[name], reads[name], counted) for name in reads)


def _layer(
    graph: Graph, spaces: ChannelSpaces, name: str, members: list[str], reads: tuple[str, ...], counted: set[str]
) -> Layer:
    read = {param for member in members for param in graph.nodes[member].params.values()} - counted
    counted |= read
    node, own = graph.nodes[name], dict[str, int]()
    value = _tensor_of(graph, name)
    kind = graph.nodes[value].type
    axis = _channel_axis(graph, spaces, value)
    for space, size, inner in spaces.layouts.get((value, axis), ()):
        own[space] = own.get(space, 0) + size * inner
    shape = kind.shape if isinstance(kind, TensorType) else ()
    whole = shape[axis] if shape else 0
    reasons = [spaces.spaces[space].frozen for space in own]
    return Layer(
        name,
        node.op,
        sum(own.values()) or (whole if isinstance(whole, int) else 0),
        "x".join(str(size) for size in shape if size != BATCH),
        sum(graph.params[param].count for param in read),
        2 * sum(multiply_adds_of(graph, member) for member in members),
        next(iter(own)) if len(own) == 1 else None,
        reasons[0] if reasons and None not in reasons else None,
        reads,
    )


def _tensor_of(graph: Graph, name: str) -> str:
    """A node, or where it gives several tensors, as a recurrent layer does, the one that takes the first of them that is read."""
    parts = [user for user in graph.users(name) if graph.nodes[user].op == "getitem"]
    return name if isinstance(graph.nodes[name].type, TensorType) or not parts else _tensor_of(graph, parts[0])


def _channel_axis(graph: Graph, spaces: ChannelSpaces, name: str) -> int:
    kind = graph.nodes[name].type
    rank = len(kind.shape) if isinstance(kind, TensorType) else 0
    usual = 1 if rank > 3 else -1
    return next((axis for axis in range(1, rank) if (name, axis) in spaces.layouts), usual)


def to_networkx(graph: Graph) -> nx.MultiDiGraph:
    """A graph for analyses by networkx: a node for every node, an edge for every value that is read.

    Nodes have the attributes op, type (text), params (entries of its nn.Parameters) and flops (for one sample, a multiply-add as
    two); edges have input, the position among what the reader reads. O(#nodes + #edges).

    Args:
        graph: with or without values.

    >>> import torch, networkx
    >>> from gngraph import from_torch
    >>> graph = from_torch(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()), torch.zeros(1, 4))
    >>> networkx.dag_longest_path_length(to_networkx(graph))
    2
    """
    found = nx.MultiDiGraph(name=checked(graph).name)
    for node in graph.nodes.values():
        told: Mapping[str, Any] = {
            "op": node.op,
            "type": str(node.type),
            "params": sum(graph.params[param].count for param in set(node.params.values())),
            "flops": 2 * multiply_adds_of(graph, node.name),
        }
        found.add_node(node.name, **told)
        found.add_edges_from((source, node.name, {"input": i}) for i, source in enumerate(node.inputs))
    return found
