"""The largest and smallest entries by `torch.max` and `torch.min`, of which nothing asks where they stand."""

from __future__ import annotations

from dataclasses import replace

from gngraph.ir import Graph
from gngraph.ops import draft_of
from gngraph.ops.reductions import VALUES_ALONE


def with_values_alone(graph: Graph) -> Graph:
    """The same graph, in which such a call gives its values alone: these do not depend on how many channels there are.

    Gradients go as before, to one entry among several that are as large; `amax` shares them out.
    """
    read = {
        node.name: graph.users(node.name)
        for node in graph.nodes.values()
        if node.op in VALUES_ALONE and node.name not in graph.outputs
    }
    alone = {
        name: users
        for name, users in read.items()
        if users and all(graph.nodes[u].op == "getitem" and graph.nodes[u].attrs["index"] == 0 for u in users)
    }
    if not alone:
        return graph
    draft = draft_of(graph)
    for name, users in alone.items():
        draft.put(replace(draft.node(name), op=VALUES_ALONE[graph.nodes[name].op]))  # it may read one from before
        for user in users:
            draft.replace_uses(user, name)
            draft.remove(user)
    return draft.commit()
