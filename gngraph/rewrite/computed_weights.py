"""Layers that compute their weight: what is done to a weight is done to what they multiply by, then put into their parameters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from gngraph.ir import Draft, Graph, Node, Parameter
from gngraph.ops import draft_of, lookup


def with_plain_weights(graph: Graph) -> Graph:
    """The same function, names and widths with layers that multiply by their parameter itself; `graph` where all do.

    Args:
        graph: a network.
    """
    layers = [node for node in graph.nodes.values() if lookup(node.op).computed is not None]
    if not layers:
        return graph
    draft = draft_of(graph)
    for param, weight in plain_weights(graph).items():
        draft.set_param(param, replace(graph.params[param], data=weight))
    for node in layers:
        computed = lookup(node.op).computed
        assert computed is not None
        draft.put(computed.plain(node))
    return draft.commit()


def computing(graph: Graph) -> dict[str, Node]:
    """Parameter "weight" -> the layer that computes its weight from it.

    Args:
        graph: a network.
    """
    return {n.params["weight"]: n for n in graph.nodes.values() if lookup(n.op).computed is not None}


def plain_weights(graph: Graph, only: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """Parameter "weight" of layers that compute theirs -> what they multiply by.

    Args:
        graph: a network.
        only: of these parameters; default: of all.
    """
    found = {}
    for param, node in computing(graph).items():
        computed = lookup(node.op).computed
        if computed is not None and (only is None or param in only):
            found[param] = computed.weight(node, {role: graph.params[p].data for role, p in node.params.items()})
    return found


def give_weight(
    draft: Draft, graph: Graph, node: Node, weight: torch.Tensor, filters: torch.Tensor, followed: torch.Tensor
) -> None:
    """Let a layer that computes its weight compute another one.

    Args:
        draft: of `graph`.
        graph: before.
        node: the layer, of `graph`.
        weight: what it is to multiply by.
        filters: for each of its filters, which one it was, or one that it starts like.
        followed: its parameter "weight" after what was done to each entry of it by itself.
    """
    computed = lookup(node.op).computed
    assert computed is not None
    before = {
        role: data if role in computed.shared else data.index_select(0, filters.to(weight.device))
        for role, data in ((role, graph.params[param].data) for role, param in node.params.items() if role != "bias")
    }
    params = dict(draft.node(node.name).params)
    for role, tensor in computed.parameters(node, weight, before, followed).items():
        if role in params:
            draft.set_param(params[role], replace(graph.params[params[role]], data=tensor))
        else:
            params[role] = f"{params['weight']}_{role}"
            while params[role] in draft.params:
                params[role] += "_"
            draft.set_param(params[role], Parameter(tensor, "buffer", trainable=False))
    draft.set_params(node.name, params)
