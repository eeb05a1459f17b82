"""How far each morphism of a space is from what it promises, value by value around the space, in float64.

The network runs once, and every value is kept. A morphism of a space changes parameters and the values that hold the space's
channels; nothing else may change. So only the nodes that read such a parameter or value are computed anew, from the kept values
of all others, and each result that does not hold the space is compared with the value kept for it. Where all of them agree,
everything behind them agrees too. This says more than a comparison of outputs, where a wrong value can be drowned, and
costs a few layers instead of the network.

A prune is compared with the masked network, computed anew around the same kept values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import LEAST_SIZE
from gngraph.ir import Graph, Node, Ref, TensorType
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import lower
from gngraph.ops import lookup
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import NewChannel, PruneChannel, SplitChannel
from tests.morphism_errors import applied


class Found(NamedTuple):
    """The largest relative error among the compared values, and the node where it is ("" when nothing differs)."""

    error: float
    node: str


@dataclass(frozen=True)
class LocalErrors:
    """What was found for one space; `prune` is None for a space of one channel, which cannot be pruned."""

    split: Found
    new: Found
    prune: Found | None


class KeptValues:
    """A graph in float64 with the value of every node on a random probe of two samples.

    Attributes:
        graph: the graph in float64.
        spaces: its channel spaces.
    """

    def __init__(self, graph: Graph, spaces: ChannelSpaces) -> None:
        self.graph = graph.to(torch.float64)
        self.spaces = spaces
        self._values = dict(_run(self.graph))
        self._versions = {name: _versions(value) for name, value in self._values.items()}
        self._holders: dict[str, set[str]] = {}
        for (node, _), segments in spaces.layouts.items():
            for owner, _, _ in segments:
                self._holders.setdefault(owner, set()).add(node)

    def outputs(self) -> list[torch.Tensor]:
        """The output tensors of the graph."""
        return [leaf for name in self.graph.outputs for leaf in _tensors(self._values[name])]

    def errors(self, space: str, channel: int) -> LocalErrors:
        """Split `channel` of `space`, add a channel and prune `channel`, one at a time."""
        prune = self._pruned(space, channel) if self.spaces[space].size > 1 else None
        return LocalErrors(self._kept(SplitChannel(space, channel)), self._kept(NewChannel(space)), prune)

    def check_untouched(self) -> None:
        """Fail if computing has written into a kept value, after which nothing that was compared would count."""
        written = [name for name, value in self._values.items() if _versions(value) != self._versions[name]]
        assert not written, f"the values of {written[:3]} were written in place"

    def _kept(self, morphism: SplitChannel | NewChannel) -> Found:
        """How far a morphism that preserves the function is from the kept values."""
        graph = applied(self.graph, self.spaces, [morphism])
        return self._worst(self._around(graph, self._near(graph, self._holders.get(morphism.space, set()))), {})

    def _pruned(self, space: str, channel: int) -> Found:
        """How far the pruned graph is from the masked one."""
        morphism = PruneChannel(space, channel)
        pruned = applied(self.graph, self.spaces, [morphism])
        reference = masked(self.graph, self.spaces, [morphism])
        near = self._near(pruned, self._holders.get(space, set()))
        holders = {name for name, holds in near.items() if holds}  # compared must be the same values of both
        return self._worst(self._around(pruned, near), self._around(reference, self._near(reference, holders)))

    def _around(self, graph: Graph, near: Mapping[str, bool]) -> dict[str, Any]:
        """The values near the space that do not hold it, computed from kept values wherever those do not hold it."""
        compared = [name for name, holds in near.items() if not holds or name in graph.outputs]
        if not compared:
            return {}
        inside = [graph.nodes[name] for name in near]
        outside = tuple(dict.fromkeys(i for node in inside for i in node.inputs if not near.get(i)))
        nodes = {name: Node(name, "input", type=self.graph.nodes[name].type) for name in outside}
        anew = {node.name: node.name if near[node.name] else f"{node.name}_anew" for node in inside}
        nodes.update({anew[node.name]: replace(node, name=anew[node.name]) for node in inside})
        params = {name: graph.params[name] for node in inside for name in node.params.values()}
        results = tuple(Ref(anew[name]) for name in compared)
        part = replace(graph, nodes=nodes, params=params, inputs=outside, output=results)
        with torch.no_grad():
            return dict(zip(compared, lower(part).module(*(self._values[name] for name in outside)), strict=True))

    def _near(self, graph: Graph, holders: set[str]) -> dict[str, bool]:
        """Every node that reads what has changed, in order, with whether it is one of `holders` or has a new shape."""
        params = self.graph.params
        changed = {name for name, p in graph.params.items() if name not in params or p.data is not params[name].data}
        near: dict[str, bool] = {}
        for name, node in graph.nodes.items():
            old = self.graph.nodes.get(name)
            if (
                old is None
                or (old is not node and old != replace(node, type=old.type))
                or any(near.get(i) for i in node.inputs)
                or not changed.isdisjoint(node.params.values())
            ):
                # a value that is no tensor has no layout: a size of the space, or the pieces that it was cut into
                same = old is not None and old.shape == node.shape and isinstance(node.type, TensorType)
                near[name] = name in holders or not same or _unread(graph, name)
        return near

    def _worst(self, got: Mapping[str, Any], reference: Mapping[str, Any]) -> Found:
        """The largest difference; what one side did not compute anew is the kept value."""
        worst = Found(0.0, "")
        for name in dict.fromkeys((*got, *reference)):
            error = relative(got.get(name, self._values.get(name)), reference.get(name, self._values.get(name)))
            worst = max(worst, Found(error, name), key=lambda found: found.error)
        return worst


def _unread(graph: Graph, name: str) -> bool:
    """Whether nothing reads the entries of a value, as of a last channel that is asked for its length."""
    users = graph.users(name)
    return bool(users) and name not in graph.outputs and all(lookup(graph.nodes[user].op).of_sizes for user in users)


def relative(a: Any, b: Any) -> float:
    """Largest |a - b| / max |b| over the tensors of two values; infinity where they differ in shape, or one alone is not finite.

    Values below `LEAST_SIZE` are compared as if they were as large: they may be nothing but the rounding of what cancels.
    """
    mine, theirs = list(_tensors(a)), list(_tensors(b))
    if [x.shape for x in mine] != [x.shape for x in theirs]:
        return float("inf")
    return max((_relative(x, y) for x, y in zip(mine, theirs, strict=True)), default=0.0)


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    if torch.equal(a, b):
        return 0.0
    masked = a.isinf() & (a == b)  # the mask of what no token attends to
    a, b = a.double().masked_fill(masked, 0.0), b.double().masked_fill(masked, 0.0)
    error = float((a - b).abs().max() / b.abs().max().clamp(min=LEAST_SIZE))
    return error if error == error else float("inf")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(value):
        yield leaf if isinstance(leaf, torch.Tensor) else torch.as_tensor(leaf)


def _versions(value: Any) -> list[int]:
    return [leaf._version for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _run(graph: Graph) -> Iterator[tuple[str, Any]]:
    lowered = lower(graph)
    interpreter = Interpreter(lowered.module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*probe_of(graph))
    for name, step in lowered.values.items():
        yield name, interpreter.env[step]
