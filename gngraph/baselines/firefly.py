"""Firefly splits (Wu, Liu, Stone, Liu, *Firefly Neural Architecture Descent*, NeurIPS 2020)."""

from __future__ import annotations

import torch

from gngraph.scoring.proposers.splits import SplitLearner


class FireflySplit(SplitLearner):
    """Learned like gngraph's, but by the first-order change alone."""

    def objective(self, s: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """The first-order change, [N, C]."""
        return s
