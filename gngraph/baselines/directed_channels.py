"""New channels along directions that another method finds, with the step along them that the Gauss-Newton model likes best.

The length of the step is settled on samples of its own, where the papers take a learning rate or a line search on the loss. A norm
of the space's own channels (BatchNorm) passes a new channel on unchanged, as GradMax has it: its statistics are the channel's, and
its gain and shift undo them.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from gngraph.ops import lookup
from gngraph.scoring.collect import Collected
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.channel_finder import ChannelFinder
from gngraph.scoring.sites import ReadSite, SplitSite

DIRECTIONS_SETTLED = 0.75
"""Share of the learn split at which directions are settled; the rest decides on the lengths of the steps."""


class DirectedChannels(ChannelFinder):
    """Channels with in- and out-weights along given directions, and the step t along them that the model likes best."""

    share: ClassVar[float]
    """Share of the step that the in-weights take: they are scaled by t^share, the out-weights by t^(1 - share)."""

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        self.count = min(self.count, self.most())
        self.border = context.settled(DIRECTIONS_SETTLED)
        self._in = torch.zeros(self.count, *self.weight.shape[1:]).to(self.weight)
        self._bias, self._slope, self._curvature = (torch.zeros(self.count).to(self.weight) for _ in range(3))
        self._out: list[torch.Tensor] = []

    def most(self) -> int:
        """Channels that the method can tell apart, at most."""
        return self.count

    def gather(self, batch: Collected) -> None:
        """Learn of the directions from a batch."""
        raise NotImplementedError

    def directions(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """In-weights [K, *], biases [K], and out-weights of each read site [K, outputs, entries, *kernel]."""
        raise NotImplementedError

    def learn(self, batch: Collected) -> None:
        """Add a batch to the stage at hand."""
        before, self._seen = self._seen, self._seen + len(batch.losses)
        if before >= self.samples:
            return
        if before < self.border:
            self.gather(batch)
        if self._seen > self.border:
            with torch.no_grad():
                if not self._out:
                    self._in, self._bias, self._out = self.directions()
                    self._isolation = self.isolated()
                    self.settle_norms(batch)
                s, q = self.effects(batch, self._out)
                self._slope += s.sum((0, 2))
                self._curvature += q.sum(3).square().sum((0, 1))
                if self._seen >= self.samples:
                    self._step(batch)

    def out(self) -> list[torch.Tensor]:
        """Out-weights of the channels for each read site."""
        return self._out

    def starts(self) -> list[dict[str, torch.Tensor]]:
        """In-weights along the directions, zero before these are known."""
        starts = []
        for channel in range(self.count):
            start = self.plain_norms()
            start[self.site.slot.param] = self._in[channel].unsqueeze(0)
            if "bias" in self.layer.params:
                start[self.layer.params["bias"]] = self._bias[channel].reshape(1)
            starts.append(start)
        return starts

    def plain_norms(self) -> dict[str, torch.Tensor]:
        """Entries of a channel whose BatchNorms pass on what they read."""
        start = self.entries(self.parents[0])
        for norm in self.graph.nodes.values():
            statistics = lookup(norm.op).statistics
            if statistics is not None and norm.params.get(statistics.mean) in start:
                plain = (statistics.mean, 0.0), (statistics.variance, 1.0 - norm.attrs[statistics.eps])
                for role, value in (*plain, (statistics.scale, 1.0), (statistics.shift, 0.0)):
                    if role in norm.params:
                        start[norm.params[role]] = torch.full_like(start[norm.params[role]], value)
        return start

    def settle_norms(self, batch: Collected) -> None:
        """Give BatchNorms the channels' statistics without a change of what they pass on."""
        self.isolation.pass_on(batch.values)

    def _step(self, batch: Collected) -> None:
        step = torch.where(self._curvature > 0, -self._slope / self._curvature, 0.0).clamp(min=0.0)
        inner, outer = step**self.share, step ** (1.0 - self.share)
        if self.share < 1.0:
            inner = torch.where(step > 0, inner, 1.0)  # one side at zero preserves the function, both would be dead
        self._out = [u * along(outer, u) for u in self._out]
        self._in, self._bias = self._in * along(inner, self._in), self._bias * inner
        self._isolation = self.isolated()
        self.settle_norms(batch)


def along(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A vector over the first axis of `like`, for products with it."""
    return vector.view(-1, *[1] * (like.dim() - 1))
