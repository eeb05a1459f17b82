"""The nodes of one network under the names of another, where they share its structure and not its names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from difflib import SequenceMatcher

from gngraph.ir import Graph, Node, Parameter
from gngraph.ir.types import Items, refs_in, replace_refs

AGREE = 0.5
"""Share of the nodes, of the network that has fewer, that names must lead to the same op for names to be followed."""


def named_alike(a: Graph, b: Graph) -> tuple[Graph, dict[str, str]]:
    """`b` under the names of `a`, and which nodes of `b` stand for nodes of another name.

    Names are followed where they lead to the same op for most nodes: then `b` stays as it is. Else nodes are matched by the longest
    runs of the same kinds, as lines are in a diff of text, and what is left by its op and what it reads, as where branches are run
    in another order. Parameters follow their nodes. What matches nothing keeps its name, with an ending where `a` has that name.

    Args:
        a: the network whose names count.
        b: the other.
    """
    same = sum(name in b.nodes and b.nodes[name].op == node.op for name, node in a.nodes.items())
    if same >= AGREE * min(len(a.nodes), len(b.nodes)):
        return b, {}
    pairs = _matched(a, b)
    nodes, params = _distinct(b.nodes, pairs, a.nodes), _distinct(b.params, _params_of(a, b, pairs), a.params)
    alike = _renamed(a, b, nodes, params, pairs)
    return alike, {name: other for name, other in pairs.items() if name != other}


def _kinds(graph: Graph) -> list[tuple[object, ...]]:
    """What tells a node from those beside it, whatever its widths: its op, and where it has one the kernel and the stride."""
    kernels = {name: tuple(p.data.shape[2:]) for name, p in graph.params.items()}
    return [
        (
            node.op,
            kernels.get(node.params.get("weight", "")),
            node.attrs.get("stride"),
            len(node.inputs),
            len(node.shape),
        )
        for node in graph.nodes.values()
    ]


def _matched(a: Graph, b: Graph) -> dict[str, str]:
    """Node of `b` -> node of `a`."""
    ours, theirs = list(a.nodes.values()), list(b.nodes.values())
    runs = SequenceMatcher(None, _kinds(a), _kinds(b), autojunk=False).get_matching_blocks()
    pairs = {theirs[run.b + i].name: ours[run.a + i].name for run in runs for i in range(run.size)}
    taken, alike = {own: name for name, own in pairs.items()}, defaultdict[object, list[str]](list)
    for node in ours:
        alike[node.op, node.inputs].append(node.name)

    def agree(name: str) -> bool:
        return name in pairs and a.nodes[pairs[name]].inputs == reads(name)

    def reads(name: str) -> tuple[str | None, ...]:
        return tuple(pairs.get(read) for read in b.nodes[name].inputs)

    for node in theirs:
        if agree(node.name):
            continue
        free = (own for own in alike[node.op, reads(node.name)] if own not in taken or not agree(taken[own]))
        if (own := next(free, None)) is not None:
            pairs.pop(taken.pop(own, ""), None)
            taken.pop(pairs.get(node.name, ""), None)
            pairs[node.name], taken[own] = own, node.name
    return pairs


def _params_of(a: Graph, b: Graph, pairs: Mapping[str, str]) -> dict[str, str]:
    found, taken = dict[str, str](), set[str]()
    for name, other in pairs.items():
        for role, param in b.nodes[name].params.items():
            own = a.nodes[other].params.get(role)
            if own is not None and param not in found and own not in taken:
                found[param] = own
                taken.add(own)
    return found


def _distinct(names: Iterable[str], renaming: Mapping[str, str], taken: Container[str]) -> dict[str, str]:
    """A new name for each: that of the renaming; of what it leaves out its own, with an ending where that is taken."""
    known, found = set(names), dict[str, str]()
    for name in names:
        new = renaming.get(name, name)
        while name not in renaming and (new in taken or (new != name and new in known)):
            new += "_b"
        found[name] = new
    return found


def _renamed(
    a: Graph, b: Graph, nodes: Mapping[str, str], params: Mapping[str, str], pairs: Mapping[str, str]
) -> Graph:
    """`b` under other names, its nodes in the order of those of `a` as far as what they read lets them."""

    def renamed(node: Node) -> Node:
        own = a.nodes[pairs[node.name]] if node.name in pairs else node
        return replace(
            node,
            name=nodes[node.name],
            inputs=tuple(nodes[name] for name in node.inputs),
            params={role: params[param] for role, param in node.params.items()},
            attrs={key: replace_refs(value, nodes) for key, value in node.attrs.items()},
            scope=own.scope,
            module=own.module,
        )

    import networkx as nx  # here, for most diffs need none of it, and it takes long

    places = {name: place for place, name in enumerate(a.nodes)}
    flow, last = nx.DiGraph(), -1
    for node in map(renamed, b.nodes.values()):
        last = places.get(node.name, last)
        flow.add_node(node.name, node=node, place=last)
        flow.add_edges_from((read, node.name) for read in node.inputs)
    order = nx.lexicographical_topological_sort(flow, key=lambda name: flow.nodes[name]["place"])
    inputs, arguments = tuple(nodes[name] for name in b.inputs), a.arguments
    if b.arguments is not None:
        given = replace_refs(b.arguments, nodes)
        assert isinstance(given, Items)
        arguments = a.arguments if [*refs_in(given)] == [*a.inputs] else given
    return Graph(
        a.name,
        {name: flow.nodes[name]["node"] for name in order},
        _in_order(a, {params[name]: parameter for name, parameter in b.params.items()}),
        inputs,
        replace_refs(b.output, nodes),
        arguments,
    )


def _in_order(a: Graph, params: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Parameters, those of `a` in its order and first."""
    own = {name: params[name] for name in a.params if name in params}
    return own | {name: parameter for name, parameter in params.items() if name not in own}
