"""Random splits, and near copies (Chen, Goodfellow, Shlens, *Net2Net*, ICLR 2016)."""

from __future__ import annotations

import torch

from gngraph.ir import Graph
from gngraph.scoring.collect import Collected
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.proposers.splits import SplitLearner
from gngraph.scoring.sites import SplitSite


class RandomSplit(SplitLearner):
    """A random direction, as far as the trust region allows; nothing is learned."""

    share = 1.0
    """Size of d as a share of the trust region."""

    def __init__(
        self, graph: Graph, site: SplitSite, size: int, options: ScoringOptions, generator: torch.Generator
    ) -> None:
        super().__init__(graph, site, size, options, generator)
        self.u = sized(self.u, self.share * options.trust)

    def learn(self, batch: Collected) -> None:
        """Nothing."""


class NearCopy(RandomSplit):
    """Net2Net's copy with a little noise, which breaks the symmetry of the twins: a hundredth of the trust region."""

    share = 0.01


def sized(u: torch.Tensor, size: float) -> torch.Tensor:
    """`u` with a root mean square of `size` in every row."""
    rms = u.square().flatten(1).mean(1).sqrt().clamp(min=1e-30)
    return u * (size / rms.view(-1, *[1] * (u.dim() - 1)))
