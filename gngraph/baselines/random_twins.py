"""A round's budget spent on splits of random channels, as Net2Net has it (Chen, Goodfellow, Shlens, ICLR 2016)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from gngraph.rewrite.morphism import Morphism, SplitChannel
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.sites import SplitSite, split_sites
from gngraph.search.situation import Plan, Situation


@dataclass(frozen=True)
class RandomTwins:
    """Splits of random channels, each at most once, whose copies are moved apart by a random direction.

    Attributes:
        share: size of the move relative to the trust region of learned splits. A hundredth is the noise of Net2Net (Chen,
            Goodfellow, Shlens, ICLR 2016), which breaks the symmetry alone.
    """

    share: float
    measures: ClassVar[bool] = False

    def widths(self, situation: Situation, plan: Plan) -> None:
        """None: every candidate may be chosen."""

    def fill(self, situation: Situation, plan: Plan) -> Iterable[Morphism]:
        """Splits in random order, as long as they fit; twins of a space that no known layer writes stay equal."""
        sites = {site.space: site for site in reversed(list(split_sites(situation.graph, situation.spaces)))}
        named = {(m.space, getattr(m, "channel", -1)) for m in plan.learned}
        channels = [
            (name, channel)
            for name in plan.open(situation.spaces)
            for channel in range(situation.spaces[name].size)
            if (name, channel) not in named
        ]
        now, cost = dict(plan.selection.widths), plan.selection.cost
        for i in torch.randperm(len(channels), generator=situation.generator).tolist():
            name, channel = channels[i]
            marginal = situation.model.marginal(name, now)
            if situation.target.allows(cost + marginal):
                now[name] += 1
                cost += marginal
                yield self._split(situation, name, channel, sites.get(name))

    def _split(self, situation: Situation, name: str, channel: int, site: SplitSite | None) -> SplitChannel:
        if site is None:
            return SplitChannel(name, channel)
        rows = situation.graph.params[site.slot.param].data[site.rows(channel)].cpu()
        d = torch.randn(rows.shape, generator=situation.generator).to(rows)
        level = rows.square().mean().sqrt() / d.square().mean().sqrt().clamp(min=1e-30)
        d = d * level * self.share * ScoringOptions.trust
        return SplitChannel(name, channel, site.slot.param, d, -d)
