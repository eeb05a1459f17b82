"""GradMax.

Evci, van Merriënboer, Unterthiner, Vladymyrov, Pedregosa, *GradMax: Growing Neural Networks using Gradient Information*, ICLR 2022.
"""

from __future__ import annotations

import torch

from gngraph.baselines.growing_channels import GrowingChannels
from gngraph.scoring.collect import Collected
from gngraph.scoring.sites import ReadSite


class GradMax(GrowingChannels):
    """GradMax: no in-weights, and the out-weights for which the gradient by the in-weights is largest.

    These are the top left singular vectors of G for V = -g, with g the gradient of the loss, as large as the mean of what the
    readers read a channel with. The loss then falls fastest along the in-weights v = the right singular vectors. What is
    scored is the channel after that first step. Without a gain it stays as it starts, and the function is preserved.
    """

    share = 1.0

    def gather(self, batch: Collected) -> None:
        """Add to the growth matrix."""
        self.add(batch, [-batch.gradient[edge] for edge in self.edges()])

    def directions(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Singular vectors; a new channel has no bias."""
        left, _, right = torch.linalg.svd(self.growth()[:, : self.weight[0].numel()], full_matrices=False)
        rows, size = right[: self.count], self.weight.flatten(1).norm(dim=1).mean()
        read = torch.cat([self._columns(read, w) for read, w in zip(self.reads, self.weights, strict=True)], 1)
        out = left[:, : self.count].T * read.norm(dim=1).mean()
        return self.gathered_in(rows * size), torch.zeros_like(self._bias), self.divided(out)

    def _columns(self, read: ReadSite, weight: torch.Tensor) -> torch.Tensor:
        """What a reader reads each channel with, [channels, outputs * entries]."""
        band = read.bands[0]
        part = weight.narrow(read.slot.axis, read.slot.offset, band.size * band.inner).movedim(read.slot.axis, 0)
        return part.reshape(band.size, -1)
