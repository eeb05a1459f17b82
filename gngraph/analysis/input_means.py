"""What each layer reads on average: the means that a prune folds into its readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role
from gngraph.data.inputs import SampleInputs
from gngraph.ir import Graph
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
        reads: dict[str, list[str]] = {}
        for name in graph.nodes:
            if name in readers:
                reads.setdefault(graph.nodes[name].inputs[0], []).append(name)

        def measured(x: SampleInputs, y: Any) -> dict[str, torch.Tensor]:
            sums: dict[str, torch.Tensor] = {}

            def add(value: str, found: Any) -> None:
                for name in reads.get(value, ()):
                    rows = found.movedim(lookup(graph.nodes[name].op).channel_axis, 1)
                    sums[name] = (rows.flatten(2).mean(2) if rows.dim() > 2 else rows).sum(0).double().cpu()

            problem.runner.watch(graph, x, add)
            return sums

        learn, totals = problem.splits.learn, dict[str, torch.Tensor]()
        for sums in problem.runner.over(learn, graph, measured):
            totals = {name: totals[name] + own if name in totals else own for name, own in sums.items()}
        return cls({name: total / len(learn) for name, total in totals.items()})

    def of_channel(self, space: ChannelSpace, channel: int) -> dict[str, torch.Tensor]:
        """Layer -> mean of the entries of a channel of `space`, slot by slot, as `PruneChannel.means` wants them."""
        means: dict[str, torch.Tensor] = {}
        for slot in space.slots:
            if slot.role is Role.CONSUME and slot.node in self.values:
                start = slot.offset + channel * slot.inner
                mean = self.values[slot.node][start : start + slot.inner]
                means[slot.node] = torch.cat([means[slot.node], mean]) if slot.node in means else mean
        return means
