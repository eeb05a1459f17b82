"""Removal: what the loss model says of removing a channel while its readers keep its mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gngraph.analysis.cost import Cost, CostModel
from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.folding import fold_target, summed_reads
from gngraph.rewrite.morphism import PruneChannel
from gngraph.scoring.collect import Collected, per_channel
from gngraph.scoring.counting import WithoutChannel
from gngraph.scoring.proposer import Context
from gngraph.scoring.sites import Edge, ReadSite, not_followed, reads_by_space


def propose_prunes(context: Context) -> Iterator[Removal]:
    """One proposer for each free space of several channels, of the removal of every one."""
    context.notes.extend(not_followed(context.graph, context.spaces))
    for name, sites in reads_by_space(context.graph, context.spaces).items():
        if sites[0].bands[0].size > 1:
            yield Removal(context.graph, sites, WithoutChannel(context.graph, context.spaces, name))


@dataclass(frozen=True)
class _Read:
    """A read site with what a fold needs: the weight summed over its kernel, [out, C, inner], or None without a fold."""

    site: ReadSite
    summed: torch.Tensor | None


class Removal:
    """The effect of removing each channel of one space, exactly as the rewrite does it (also at zero-padded borders).

    With y the reader's output before its bias, a the channel, m its mean and W_c the weights that read it, the reader's
    output changes by (sum of W_c) m - W_c * a. Norms that count the channels normalise what stays.

    Args:
        graph: the network, on the device of the data.
        sites: all that reads the space.
        uncounted: what statistics do without each channel.
    """

    def __init__(self, graph: Graph, sites: tuple[ReadSite, ...], uncounted: WithoutChannel) -> None:
        self.graph, self.uncounted = graph, uncounted
        self.space = sites[0].space
        self.of_rows = not uncounted.edges()
        self.reads = tuple(_Read(site, summed_weight(graph, site)) for site in sites)
        self.size = sites[0].bands[0].size
        self._totals: list[torch.Tensor | None] = [None] * len(sites)
        self._count = 0

    def edges(self) -> list[Edge]:
        """Edges whose gradients are needed."""
        folded = [Edge(r.site.edge.reader) for r in self.reads if r.summed is not None]
        return [r.site.edge for r in self.reads] + folded + self.uncounted.edges()

    def learn(self, batch: Collected) -> None:
        """Add a batch to the running means."""
        self._count += batch.samples
        for i, read in enumerate(self.reads):
            if read.summed is None:
                continue
            band = read.site.bands[0]
            a = batch.read(read.site.edge).movedim(band.axis, 1)
            a = (
                a.narrow(1, band.start, band.size * band.inner).flatten(2)
                if a.dim() > 2
                else a.narrow(1, band.start, band.size * band.inner).unsqueeze(2)
            )
            (total,) = batch.total(a.mean(2).sum(0).view(band.size, band.inner))
            known = self._totals[i]
            self._totals[i] = total if known is None else known + total

    def means(self, channel: int) -> dict[str, torch.Tensor]:
        """Reading node -> mean of a channel's entries, slot by slot, for the readers that can keep it."""
        kept: dict[str, torch.Tensor] = {}
        for read, total in zip(self.reads, self._totals, strict=True):
            if read.summed is not None and total is not None:
                reader, mean = read.site.edge.reader, total[channel] / self._count
                kept[reader] = torch.cat([kept[reader], mean]) if reader in kept else mean
        return kept

    def morphisms(self) -> Iterator[tuple[PruneChannel, str]]:
        """A prune of every channel, in order."""
        for channel in range(self.size):
            yield PruneChannel(self.space, channel, self.means(channel)), self.space

    def cost(self, model: CostModel) -> Cost:
        """Of one channel less."""
        return model.marginal(self.space, model.widths, -1)

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect on every sample: s [N, C], q [R, N, C]."""
        s: torch.Tensor | float = 0.0
        q: torch.Tensor | float = 0.0
        for read, total in zip(self.reads, self._totals, strict=True):
            edge = read.site.edge
            first, second = (g[edge] * batch.read(edge) for g in (batch.gradient, batch.factors))
            for group in read.site.bands:
                s = s - per_channel(first, group, 1)
                q = q - per_channel(second, group, 2)
            if read.summed is None or total is None:
                continue
            kept = torch.einsum("oci,ci->oc", read.summed, total / self._count)
            g, v = batch.gradient[Edge(edge.reader)], batch.factors[Edge(edge.reader)]
            axis = written_axis(self.graph, edge.reader)
            s = s + over_positions(g, axis, 1) @ kept
            q = q + over_positions(v, axis, 2) @ kept
        for first, second in self.uncounted.effects(batch):
            s, q = s + first, q + second
        assert isinstance(s, torch.Tensor) and isinstance(q, torch.Tensor)
        return s, q


def over_positions(gradient: torch.Tensor, axis: int, lead: int) -> torch.Tensor:
    """Sum of a gradient over everything but the leading axes and the channel axis.

    Args:
        gradient: [*lead, ...] with the channel axis among the rest.
        axis: that of the channels, counted from the batch axis.
        lead: leading axes, the batch among them.
    """
    moved = gradient.movedim(axis + lead - 1, lead)
    return moved.flatten(lead + 1).sum(-1) if moved.dim() > lead + 1 else moved


def written_axis(graph: Graph, layer: str) -> int:
    """The axis of a layer's value along which its outputs lie; what it reads may lie along another, as where a kernel spans it."""
    return lookup(graph.nodes[layer].op).channel_axis % len(graph.nodes[layer].shape)


def summed_weight(graph: Graph, site: ReadSite) -> torch.Tensor | None:
    """Weights that read each channel, summed over the kernel, [out, C, inner]; None where the reader keeps no constant."""
    if fold_target(graph, site.edge.reader) is None:
        return None
    weight, slot, band = graph.params[site.slot.param].data, site.slot, site.bands[0]
    part = summed_reads(weight, slot, slot.offset, band.size * band.inner)
    return part.reshape(part.shape[0], band.size, band.inner)
