"""Splits of one layer by direct optimisation of the true loss: for every channel (d1, d2) of the network with it alone split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.data import batches
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.morphism import SplitChannel
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Replay
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.sites import SplitSite, read_sites


@dataclass(frozen=True)
class DirectOptions:
    """How the true loss is minimised.

    Attributes:
        epochs: passes over the learn split.
        opposite: the copies move in opposite directions (d2 = -d1), as the library's do; else each as it likes, which includes
            a step of training that both take together.
        learn: rate, start and trust region, in the unit of the channel's weights; the rate falls to 0 along a cosine.
        block: channels whose networks are run as one batch.
    """

    epochs: int
    opposite: bool
    learn: ScoringOptions
    block: int = 8


class DirectSplits:
    """Adam on the true loss in eval mode, all other parameters fixed; the channels of a layer side by side.

    The copies of all channels go side by side up to the next layer. From there on the network is run on a batch for each
    channel, in which this channel is read as the mean of its copies: the loss is exactly that of the split network, and its
    gradient reaches the channel's own (d1, d2) alone. Like the library's, Adam keeps one second moment a channel. Cost of an
    epoch: for each channel one forward and one backward pass of all but the first layer.

    Raises:
        PassError: the layer's space is read in several places, or around the place where it is read.
    """

    def __init__(self, graph: Graph, site: SplitSite, size: int, problem: Problem, options: DirectOptions) -> None:
        self.graph = graph.to(device=problem.device)
        self.site, self.size, self.problem, self.options = site, size, problem, options
        self.layer = self.graph.nodes[site.node]
        reads = [read for read in read_sites(self.graph, ChannelSpaces.of(self.graph)) if read.space == site.space]
        places = {(read.edge.value, read.bands) for read in reads}
        bands = {band for read in reads for band in read.bands}
        if len(places) != 1 or len(bands) != 1 or len(site.rows(0)) != 1:
            raise PassError(
                f"'{site.node}' cannot be split directly: its space '{site.space}' must be read in one place, once"
            )
        self.read, band = reads[0].edge.value, bands.pop()
        self.axis, self.start, self.inner = band.axis, band.start, band.inner
        order = list(self.graph.nodes)
        self.before = [name for name in order[: order.index(self.read) + 1] if name not in self.graph.inputs]
        self.moved = {site.node}
        for name in self.before:
            if self.moved.intersection(self.graph.nodes[name].inputs):
                self.moved.add(name)
        self.behind = order[order.index(self.read) + 1 :]
        known = {self.read, *self.behind}
        strangers = [i for name in self.behind for i in self.graph.nodes[name].inputs if i not in known]
        if strangers:
            raise PassError(f"'{site.node}' cannot be split directly: '{strangers[0]}' goes around '{self.read}'")
        self.replay = Replay(self.graph)
        weight = self.graph.params[site.slot.param].data
        rms = weight.flatten(1).square().mean(1).sqrt()
        self.scale = torch.where(rms > 0, rms, rms.mean().clamp(min=1e-8)).view(-1, *[1] * (weight.dim() - 1))
        generator = torch.Generator().manual_seed(problem.seed)
        start = torch.randn(weight.shape, generator=generator).to(weight) * options.learn.start
        self.u = self._bounded(torch.stack([start, -start]))

    def run(self) -> None:
        """Minimise."""
        options, learn = self.options, self.problem.splits.learn
        shuffle = torch.Generator().manual_seed(self.problem.seed)
        steps, step = options.epochs * math.ceil(len(learn) / self.problem.batch_size), 0
        mean, square = torch.zeros_like(self.u), torch.zeros_like(self.scale)
        for _ in range(options.epochs):
            for x, y in batches(learn, self.problem.batch_size, generator=shuffle, device=self.problem.device):
                grad, step = self.gradient(x, y), step + 1
                if options.opposite:
                    grad = torch.stack([grad[0] - grad[1], grad[1] - grad[0]]) / 2
                mean = 0.9 * mean + 0.1 * grad
                square = 0.98 * square + 0.02 * grad.square().flatten(2).mean((0, 2)).view(square.shape)
                length = (square / (1 - 0.98**step)).sqrt().clamp(min=1e-30)
                rate = options.learn.rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
                self.u = self._bounded(self.u - rate * mean / (1 - 0.9**step) / length)

    def morphisms(self) -> Iterator[SplitChannel]:
        """A split of every channel, in order."""
        d = (self.u * self.scale).cpu()
        for channel in range(self.size):
            rows = d[:, self.site.rows(channel)]
            yield SplitChannel(self.site.space, channel, self.site.slot.param, rows[0], rows[1])

    def losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean loss over a batch of the network with each channel alone split as it is now, [channels]."""
        with torch.no_grad():
            delta, read = self._delta(x, self.u)
            return torch.cat([self._behind(read, delta, channels, y) for channels in self._blocks()])

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Gradient of each channel's loss by its own u, of the shape of u.

        The rest of the network is differentiated block by block, so that the activations of one block are held at a time.
        """
        u = self.u.detach().requires_grad_(True)
        delta, read = self._delta(x, u)
        leaf, back = delta.detach().requires_grad_(True), torch.zeros_like(delta)
        for channels in self._blocks():
            back += torch.autograd.grad(self._behind(read, leaf, channels, y).sum(), leaf)[0]
        return torch.autograd.grad(delta, u, back)[0]

    def _blocks(self) -> list[range]:
        block = self.options.block
        return [range(start, min(start + block, self.size)) for start in range(0, self.size, block)]

    def _delta(self, x: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change of what is read of the layer if all channels were split, and the value that is read."""
        values = {self.graph.inputs[0]: x}
        with torch.no_grad():
            self.replay.run(self.before, values, {})
        apply = lookup(self.layer.op).apply
        assert apply is not None
        copies = []
        for d in u * self.scale:
            changed = {self.layer.name: values[self.layer.name] + apply(self.layer, values[self.layer.inputs[0]], d)}
            self.replay.run([n for n in self.before if n in self.moved and n != self.layer.name], changed, values)
            copies.append(changed[self.read])
        return 0.5 * (copies[0] + copies[1]) - values[self.read], values[self.read]

    def _behind(self, read: torch.Tensor, delta: torch.Tensor, channels: range, y: torch.Tensor) -> torch.Tensor:
        """Mean loss with each of `channels` alone changed, [channels]."""
        masks = torch.zeros(len(channels), read.shape[self.axis]).to(read)
        for row, channel in enumerate(channels):
            masks[row].narrow(0, self.start + channel * self.inner, self.inner).fill_(1.0)
        masks = masks.view(len(channels), *[-1 if i == self.axis else 1 for i in range(read.dim())])
        values = {self.read: (read + delta * masks).flatten(0, 1)}
        self.replay.run(self.behind, values, {})
        targets = y.repeat(len(channels), *[1] * (y.dim() - 1))
        losses = self.problem.loss_fn.per_sample(self.replay.outputs(values), targets)
        return losses.view(len(channels), -1).mean(1)

    def _bounded(self, u: torch.Tensor) -> torch.Tensor:
        trust = self.options.learn.trust
        if math.isinf(trust):
            return u
        size = u.square().flatten(2).mean((0, 2)).sqrt().view(self.scale.shape)
        return u * (trust / size.clamp(min=trust))
