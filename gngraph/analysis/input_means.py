"""What each layer reads on average: the means that a prune folds into its readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role
from gngraph.ir import Graph
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.to_torch import lower
from gngraph.ops import lookup

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@dataclass(frozen=True, eq=False)
class InputMeans:
    """Mean of what each layer that reads a free space reads, on the learn split in eval mode.

    Cost: one forward pass over the learn split.

    Attributes:
        values: layer -> float64 [length of its channel axis] on the CPU, mean over samples and positions.
    """

    values: Mapping[str, torch.Tensor]

    @classmethod
    def run(cls, graph: Graph, analyses: AnalysisManager) -> InputMeans:
        """The analysis as `AnalysisManager.get(InputMeans, graph)` runs it.

        Raises:
            PassError: there is no problem.
        """
        problem, spaces = analyses.problem, analyses.get(ChannelSpaces, graph)
        reading = {node for space in spaces.free for node in space.nodes(Role.CONSUME)}
        readers = {node for node in reading if lookup(graph.nodes[node].op).apply is not None}  # others keep no mean
        observer = _Observer(graph.to(device=problem.device), readers)
        count = 0
        with torch.no_grad():
            for x, _ in problem.read(problem.splits.learn, graph):
                observer.run(x)
                count += len(x)
        return cls({name: total / count for name, total in observer.totals.items()})

    def of_channel(self, space: ChannelSpace, channel: int) -> dict[str, torch.Tensor]:
        """Layer -> mean of the entries of a channel of `space`, slot by slot, as `PruneChannel.means` wants them."""
        means: dict[str, torch.Tensor] = {}
        for slot in space.slots:
            if slot.role is Role.CONSUME and slot.node in self.values:
                start = slot.offset + channel * slot.inner
                mean = self.values[slot.node][start : start + slot.inner]
                means[slot.node] = torch.cat([means[slot.node], mean]) if slot.node in means else mean
        return means


class _Observer(Interpreter):
    """Runs a graph and adds up, for each of `readers`, the mean input of every sample."""

    def __init__(self, graph: Graph, readers: set[str]) -> None:
        lowered = lower(graph)
        super().__init__(lowered.module)
        self.totals: dict[str, torch.Tensor] = {}
        self._sources: dict[fx.Node, list[tuple[str, int]]] = {}
        for name in graph.nodes:
            if name in readers:
                node = graph.nodes[name]
                axis = lookup(node.op).channel_axis
                self._sources.setdefault(lowered.values[node.inputs[0]], []).append((name, axis))

    def run_node(self, n: fx.Node) -> Any:
        """Run one step; note its value where a reader wants it."""
        value = super().run_node(n)
        for name, axis in self._sources.get(n, ()):
            rows = value.detach().movedim(axis, 1)
            mean = (rows.flatten(2).mean(2) if rows.dim() > 2 else rows).sum(0).double().cpu()
            self.totals[name] = self.totals[name] + mean if name in self.totals else mean
        return value
