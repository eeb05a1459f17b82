"""Networks that begin alike, run together: what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from gngraph.data.inputs import SampleInputs, each
from gngraph.ir import Graph, Node, Ref
from gngraph.ir.inputs import WITHIN_NETWORK, over_samples
from gngraph.ir.types import refs_in
from gngraph.lowering.layout import layout_of

Function = TypeVar("Function", bound=Callable[..., Any])


class Together(Generic[Function]):
    """Several networks that read the same samples. What one has in common with the first of them, from the input on, it is given.

    So changes of one network, each at another place, take half of the time that they would take alone.

    Args:
        graphs: at least one.
        function: makes a graph run, or a part of one, which reads and returns values within a network.

    Attributes:
        first: the first of the graphs.
        functions: of the first, and of what is left of each of the others.
    """

    def __init__(self, graphs: Sequence[Graph], function: Callable[[Graph], Function]) -> None:
        self.first, *others = map(over_samples, graphs)
        self._rests = [_rest(self.first, other) for other in others]
        self._given = tuple(dict.fromkeys(name for rest in self._rests for name in rest.reads if isinstance(name, str)))
        whole = self.first
        if self._given:
            whole = replace(whole, output=(whole.output, *(Ref(name) for name in self._given)))
        self.functions = [function(part) for part in (whole, *(rest.graph for rest in self._rests))]

    def outputs(self, x: SampleInputs) -> Iterator[Any]:
        """What each of the networks returns, in their order.

        Args:
            x: samples, lying in memory as the first of them reads them fastest.
        """
        (first, *functions), inputs = self.functions, each(x)
        output, values = first(*inputs), dict[str, Any]()
        if self._given:
            output, *found = output
            values = dict(zip(self._given, found, strict=True))
        yield output
        for rest, function in zip(self._rests, functions, strict=True):
            own = inputs
            if rest.layout is not None:
                form = torch.contiguous_format if rest.layout is torch.preserve_format else rest.layout
                own = tuple(one.to(memory_format=form) for one in inputs)
            yield function(*(own[name] if isinstance(name, int) else values[name] for name in rest.reads))


@dataclass(frozen=True, eq=False)
class _Rest:
    """What is left of a network beside another one.

    Attributes:
        graph: its nodes; values that it is given are its inputs.
        reads: for each of these the name of the value, or the number of an input of the network.
        layout: of the samples, where it is not that of the other network.
    """

    graph: Graph
    reads: tuple[str | int, ...]
    layout: torch.memory_format | None


def _rest(first: Graph, graph: Graph) -> _Rest:
    layout = layout_of(graph)
    if layout is not layout_of(first):
        return _Rest(graph, tuple(range(len(graph.inputs))), layout)
    left = _without(graph, alike(first, graph))
    numbers = {name: number for number, name in enumerate(graph.inputs)}
    return _Rest(left, tuple(numbers.get(name, name) for name in left.inputs), None)


def alike(graph: Graph, other: Graph) -> list[str]:
    """The first nodes of two networks, as far as they are equal and have the same parameters.

    It ends before a module that is called again later, which may keep count of its calls, and at the inputs where a foreign op may
    write into what it reads.
    """
    names: list[str] = []
    writes = any(node.op == "foreign" for both in (graph, other) for node in both.nodes.values())
    for mine, theirs in zip(graph.nodes.values(), other.nodes.values(), strict=False):
        own, others = mine.params.values(), theirs.params.values()
        if mine != theirs or any(graph.params[p].data is not other.params[p].data for p in own):
            break
        again = any(len(both.readers(p)) > 1 for both, ps in ((graph, own), (other, others)) for p in ps)
        if again or (writes and mine.op != "input"):
            break
        names.append(mine.name)
    return names


def _without(graph: Graph, known: Sequence[str]) -> Graph:
    """What is left of a network where the values of some first nodes are known: those that it reads are its inputs."""
    if not known:
        return graph
    gone = set(known)
    left = [node for name, node in graph.nodes.items() if name not in gone]
    read = dict.fromkeys(name for node in left for name in node.inputs if name in gone)
    read |= dict.fromkeys(name for name in refs_in(graph.output) if name in gone)
    nodes = {name: Node(name, "input", attrs={WITHIN_NETWORK: True}, type=graph.nodes[name].type) for name in read}
    nodes |= {node.name: node for node in left}
    params = {name: graph.params[name] for node in left for name in node.params.values()}
    inputs = (*read, *(name for name in graph.inputs if name not in gone))
    return Graph(graph.name, nodes, params, inputs, graph.output)
