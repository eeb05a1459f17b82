"""Splitting steepest descent in its fast form.

Wang, Wu, Li, Liu, *Energy-aware Neural Architecture Optimization with Fast Splitting Steepest Descent*, 2019.
"""

from __future__ import annotations

import torch

from gngraph.baselines.random_splits import RandomSplit, sized
from gngraph.scoring.collect import Collected
from gngraph.scoring.proposers.splits import SplitLearner


class SteepestSplit(RandomSplit):
    """The most negative direction of the splitting matrix, by its Rayleigh quotient over small opposite moves.

    For small moves the first-order change of an antisymmetric split is d^T S d / 2, with S the splitting matrix; the kinks
    of piecewise linear functions are smoothed by the distribution of the data instead of a softplus.
    """

    share = 0.1

    def objective(self, s: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """The change over the square of the move's size, [N, C]."""
        return s / (self.share * self.options.trust) ** 2

    def learn(self, batch: Collected) -> None:
        """One step on the sphere of small moves."""
        SplitLearner.learn(self, batch)
        self.u = sized(self.u, self.share * self.options.trust)

    def rows(self) -> torch.Tensor:
        """The direction found, as far as the trust region allows, [*weight.shape]."""
        return (sized(self.u, self.options.trust) * self.scale).detach()
