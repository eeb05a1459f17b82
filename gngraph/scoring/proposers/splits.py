"""Learning splits: for every channel of a layer at once, the pair (d1, d2) that the model of the loss likes best."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gngraph.analysis.cost import Cost, CostModel
from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.morphism import SplitChannel
from gngraph.scoring.collect import Collected, per_channel
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.proposer import Context
from gngraph.scoring.sites import Edge, SplitSite, not_split, split_sites


def propose_splits(context: Context, learner: type[SplitLearner]) -> Iterator[SplitLearner]:
    """One proposer for each layer that writes a free space and has a non-linearity behind it, with a note for each that has not.

    Args:
        context: what proposers are made from.
        learner: how the pairs are learned.
    """
    context.notes.extend(not_split(context.graph, context.spaces))
    for site in split_sites(context.graph, context.spaces):
        if site.linear:
            where = context.graph.nodes[site.node].module or site.node
            context.notes.append(
                f"'{where}' writes '{site.space}' without a non-linearity behind it: splits gain nothing"
            )
        elif site.taps:
            yield learner(context.graph, site, context.spaces[site.space].size, context.options, context.generator)


class SplitLearner:
    """Learns d1 = -d2 for every channel of one site; one step costs a convolution and its weight gradient.

    Args:
        graph: the network, on the device of the data.
        site: a layer, and what reads its channels.
        size: channels of the space.
        options: of which rate, decay, start and trust are read.
        generator: of the CPU, for the first direction.
    """

    def __init__(
        self, graph: Graph, site: SplitSite, size: int, options: ScoringOptions, generator: torch.Generator
    ) -> None:
        self.site = site
        self.size = size
        self.options = options
        weight = graph.params[site.slot.param].data
        self.layer = graph.nodes[site.node]
        flat = weight.flatten(1).square().mean(1).sqrt()
        floor = flat.mean().clamp(min=1e-8)
        self.scale = torch.where(flat > 0, flat, floor).view(-1, *[1] * (weight.dim() - 1))
        self.u = torch.randn(weight.shape, generator=generator).to(weight) * options.start
        self._mean = torch.zeros_like(self.u)
        self._square = torch.zeros(len(weight)).to(weight)
        self._gradient = torch.zeros_like(self.u)
        self._steps = 0

    def rows(self) -> torch.Tensor:
        """d1 = -d2 of all rows of the weight, [*weight.shape]."""
        return (self.u * self.scale).detach()

    def edges(self) -> list[Edge]:
        """The taps."""
        return [edge for edge, _ in self.site.taps]

    def morphisms(self) -> Iterator[tuple[SplitChannel, str]]:
        """A split of every channel, in order."""
        d = self.rows().cpu()
        for channel in range(self.size):
            rows = d[self.site.rows(channel)]
            yield (
                SplitChannel(self.site.space, channel, self.site.slot.param, rows, -rows),
                self.layer.module or self.layer.name,
            )

    def cost(self, model: CostModel) -> Cost:
        """Of one channel more."""
        return model.marginal(self.site.space, model.widths)

    def learn(self, batch: Collected) -> None:
        """Add to the gradient of the model's mean over the batch, and step when that is complete.

        A step is Adam's with one second moment a channel.

        Gradients of single entries are mostly noise. With one second moment for the channel's whole d the entries keep
        their proportions, and a channel without a consistent direction hardly moves.
        """
        u = self.u.requires_grad_(True)
        s, q = self._effect(batch, u * self.scale)
        objective = self.objective(s, q).mean(0).sum()
        penalty = self.options.decay * batch.losses.mean() * u.square().flatten(1).mean(1).sum()
        (gradient,) = torch.autograd.grad(objective + penalty, u)
        self.u = u.detach()
        self._gradient += batch.total(batch.share * gradient)[0]
        if batch.last:
            self._step(self._gradient)
            self._gradient = torch.zeros_like(self.u)

    def _step(self, grad: torch.Tensor) -> None:
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * grad
        self._square = 0.98 * self._square + 0.02 * grad.square().flatten(1).mean(1)
        corrected = (self._square / (1 - 0.98**self._steps)).sqrt().clamp(min=1e-30)
        direction = self._mean / (1 - 0.9**self._steps) / corrected.view(self.scale.shape)
        u = self.u - self.options.rate * direction
        size = u.square().flatten(1).mean(1).sqrt().view(self.scale.shape)
        self.u = u * (self.options.trust / size.clamp(min=self.options.trust))

    def objective(self, s: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """What is minimised, for each sample and channel: the model's change of the loss, [N, C]."""
        return s + 0.5 * q.square().sum(0)

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect of every channel's split on every sample: s [N, C], q [R, N, C]."""
        return self._effect(batch, self.rows())

    def _effect(self, batch: Collected, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = batch.values[self.layer.inputs[0]]
        y = batch.values[self.site.node]
        apply = lookup(self.layer.op).apply
        assert apply is not None
        moved = apply(self.layer, h, d)
        return effect_of(self.site, batch, y + moved, y - moved)


def effect_of(
    site: SplitSite, batch: Collected, first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What it does to the losses that two copies of every channel stand in for it, each with half of its out-weights.

    Args:
        site: whose channels are split.
        batch: values and gradients that were collected at the site.
        first, second: the value of the site's layer in either copy.

    Returns:
        s [N, C] and q [R, N, C], each channel's by itself.
    """
    results = []
    for copy in (first, second):
        changed = {site.node: copy}
        batch.recompute(site.segment, changed)
        results.append(changed)
    s: torch.Tensor | None = None
    q: torch.Tensor | None = None
    for edge, bands in site.taps:
        if edge.value not in results[0]:
            continue
        delta = torch.lerp(results[0][edge.value], results[1][edge.value], 0.5).sub_(batch.values[edge.value])
        for band in bands:
            slope = per_channel(batch.gradient[edge] * delta, band, 1)
            bend = per_channel(batch.factors[edge] * delta, band, 2)
            s = slope if s is None else s + slope
            q = bend if q is None else q + bend
    assert s is not None and q is not None
    return s, q
