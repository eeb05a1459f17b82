"""Splits whose copies move as each likes, learned from the Gauss-Newton model: the setting of the paper (arXiv 2411.05855).

The library's copies move in opposite directions, since what they move by together is a step of training and needs no split.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.morphism import SplitChannel
from gngraph.scoring.collect import Collected
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.proposers.splits import SplitLearner, effect_of
from gngraph.scoring.sites import SplitSite


class FreeSplits(SplitLearner):
    """Learns (d1, d2) of every channel, both free: they lie side by side behind the channel's axis, as one d of the learner."""

    def __init__(
        self, graph: Graph, site: SplitSite, size: int, options: ScoringOptions, generator: torch.Generator
    ) -> None:
        super().__init__(graph, site, size, options, generator)
        self.scale = self.scale.unsqueeze(1)
        self.u = torch.stack([self.u, -self.u], 1)
        self._mean, self._gradient = torch.zeros_like(self.u), torch.zeros_like(self.u)

    def morphisms(self) -> Iterator[tuple[SplitChannel, str]]:
        """A split of every channel, in order."""
        d = self.rows().cpu()
        for channel in range(self.size):
            d1, d2 = d[self.site.rows(channel)].unbind(1)
            yield (
                SplitChannel(self.site.space, channel, self.site.slot.param, d1, d2),
                self.layer.module or self.layer.name,
            )

    def _effect(self, batch: Collected, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        apply = lookup(self.layer.op).apply
        assert apply is not None
        h, y = batch.values[self.layer.inputs[0]], batch.values[self.site.node]
        first, second = (y + apply(self.layer, h, each) for each in d.unbind(1))
        return effect_of(self.site, batch, first, second)
