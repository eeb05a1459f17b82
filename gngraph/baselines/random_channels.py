"""New channels with random in-weights and the steepest out-weights."""

from __future__ import annotations

import torch

from gngraph.baselines.directed_channels import DirectedChannels, along
from gngraph.scoring.collect import Collected
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.dense_layers import patches_of, rows_of
from gngraph.scoring.sites import Edge, ReadSite, SplitSite


class RandomChannels(DirectedChannels):
    """Random in-weights, as a new channel's are without any method, and out-weights along the steepest descent of the loss.

    In-weights have the spread of the layer's own, and BatchNorms the channel's statistics, gain 1 and shift 0.
    """

    share = 0.0

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        self._in = torch.randn(self._in.shape, generator=generator).to(self._in) * self.weight.std(correction=0)
        self._cross: list[torch.Tensor] = []

    def gather(self, batch: Collected) -> None:
        """Add to the gradient by the out-weights."""
        with torch.no_grad():
            if self._isolation is None:
                self.settle_norms(batch)
            changed = self.isolation.run(batch.values)
            found = []
            for site, own in zip(self.isolation.reads, self.reads, strict=True):
                reader, weight = self.isolation.graph.nodes[site.edge.reader], self.graph.params[own.slot.param].data
                gradient, inner = rows_of(reader, batch.gradient[Edge(site.edge.reader)]), site.bands[0].inner
                channels = (self.isolation.read(site, changed, channel) for channel in range(self.count))
                cross = [torch.einsum("nop,nmp->om", gradient, patches_of(reader, weight, a)) for a in channels]
                found.append(torch.stack(cross).view(self.count, len(weight), inner, *weight.shape[2:]))
            self._cross = [a + b for a, b in zip(self._cross, found, strict=True)] if self._cross else found

    def directions(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Against the gradient, which is scaled to size 1 for each channel."""
        size = torch.cat([cross.flatten(1) for cross in self._cross], 1).norm(dim=1).clamp(min=1e-30)
        return self._in, self._bias, [-cross / along(size, cross) for cross in self._cross]

    def settle_norms(self, batch: Collected) -> None:
        """Give BatchNorms the channels' statistics."""
        self.isolation.calibrate(batch.values)
