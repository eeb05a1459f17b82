"""Learning splits: for every channel of a layer at once, the pair (d1, d2) that the model of the loss likes best."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gngraph.scoring.collect import Collected, Collector, per_channel
from gngraph.scoring.sites import SplitSite
from gngraph.ops import lookup


@dataclass(frozen=True)
class LearnOptions:
    """How splits are learned.

    Attributes:
        rate: Adam's step on d, as a share of the root-mean-square entry of the channel's own weights.
        decay: weight of the mean square of d (relative to the channel's) in the objective.
        start: spread of the first d1 = -d2, in the same unit.
    """

    rate: float = 0.1
    decay: float = 1e-3
    start: float = 0.1


class SplitLearner:
    """Learns (d1, d2) for every channel of one site; one step costs two convolutions and their weight gradients."""

    def __init__(self, collector: Collector, site: SplitSite, options: LearnOptions, generator: torch.Generator) -> None:
        self.collector = collector
        self.site = site
        self.options = options
        weight = collector.graph.params[site.slot.param].data
        self.layer = collector.graph.nodes[site.node]
        flat = weight.flatten(1).square().mean(1).sqrt()
        floor = flat.mean().clamp(min=1e-8)
        self.scale = torch.where(flat > 0, flat, floor).view(-1, *[1] * (weight.dim() - 1))
        start = torch.randn(weight.shape, generator=generator).to(weight) * options.start
        self.u = torch.stack([start, -start]).requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.u], lr=options.rate)

    def rows(self) -> torch.Tensor:
        """(d1, d2) of all rows of the weight: [2, *weight.shape]."""
        return (self.u * self.scale).detach()

    def step(self, batch: Collected) -> None:
        """One step of Adam on the model's mean over the batch, summed over channels."""
        s, q = self.effect(batch, self.u * self.scale)
        objective = (s + 0.5 * q.square().sum(0)).mean(0).sum()
        penalty = self.options.decay * self.u.square().mean() * batch.losses.mean() * self.u.shape[1]
        self.optimizer.zero_grad(set_to_none=True)
        (objective + penalty).backward()
        self.optimizer.step()

    def effect(self, batch: Collected, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect of every channel's split on every sample: s [N, C], q [R, N, C]."""
        h = batch.values[self.layer.inputs[0]]
        y = batch.values[self.site.node]
        apply = lookup(self.layer.op).apply
        assert apply is not None
        results = []
        for copy in (0, 1):
            changed = {self.site.node: y + apply(self.layer, h, d[copy])}
            self.collector.segment(self.site.segment, changed, batch.values)
            results.append(changed)
        s: torch.Tensor | None = None
        q: torch.Tensor | None = None
        for edge, bands in self.site.taps:
            if edge.value not in results[0]:
                continue
            delta = 0.5 * (results[0][edge.value] + results[1][edge.value]) - batch.values[edge.value]
            for band in bands:
                first = per_channel(batch.gradient[edge] * delta, band, 1)
                second = per_channel(batch.factors[edge] * delta, band, 2)
                s = first if s is None else s + first
                q = second if q is None else q + second
        assert s is not None and q is not None
        return s, q
