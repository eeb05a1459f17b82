"""What it does to statistics that a channel is not counted any more, exactly, before anything is linearised.

A norm without channel c gives the others (x - mean') / sqrt(variance' + eps), with mean and variance over what stays. Both come
from sums over all channels less those over the channel, so that all channels of a space cost as much as a few passes over the
values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import NamedTuple

import torch
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph, Node
from gngraph.ops import ChannelStatistics, lookup
from gngraph.scoring.collect import Collected
from gngraph.scoring.sites import Band, Edge, bands_of


class _Counter(NamedTuple):
    """A node that takes statistics, with the bands of its input over which it does."""

    node: Node
    bands: tuple[Band, ...]


class WithoutChannel:
    """The effect on the losses that the statistics of a space's norms do without each of its channels.

    Args:
        graph: the network.
        spaces: of `graph`.
        space: name of a free space.
    """

    def __init__(self, graph: Graph, spaces: ChannelSpaces, space: str) -> None:
        self.graph, self.size = graph, spaces[space].size
        self.counters: list[_Counter] = []
        for name in spaces.counters.get(space, ()):
            node = graph.nodes[name]
            bands = bands_of(spaces, node.inputs[0], space)
            if lookup(node.op).counts is not None:
                axes = spaces.counted[name]
                self.counters.append(_Counter(node, tuple(band for band in bands if band.axis in axes)))
            else:  # a slice, for the statistics that read it
                for axis, start, size, inner in map(astuple, bands):
                    first = Band(axis, start, min(size, (int(node.shape[axis]) - start) // inner), inner)
                    if first.size > 0:
                        self.counters += [_Counter(graph.nodes[user], (first,)) for user in graph.users(name)]

    def edges(self) -> list[Edge]:
        """Edges whose gradients are needed."""
        return [Edge(counter.node.name) for counter in self.counters]

    def effects(self, batch: Collected) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """First- and second-order effect of every channel's absence by each node: s [N, C], q [R, N, C]."""
        found = []
        for counter in self.counters:
            counts = lookup(counter.node.op).counts
            assert counts is not None
            s, q = self._normalised(batch, counter, counts) if counts.norm else self._reduced(batch, counter, counts)
            rest = (0, self.size - s.shape[-1])  # channels that a slice leaves out
            found.append((F.pad(s, rest), F.pad(q, rest)))
        return found

    def _normalised(
        self, batch: Collected, counter: _Counter, counts: ChannelStatistics
    ) -> tuple[torch.Tensor, torch.Tensor]:
        node, bands, edge = counter.node, counter.bands, Edge(counter.node.name)
        x = batch.values[node.inputs[0]]
        mean = x.mean(-1, keepdim=True) if counts.centred else torch.zeros_like(x[..., :1])
        d = x - mean
        all_, own = x.shape[-1], sum(band.inner for band in bands)
        squares = d.square()
        total = squares.sum(-1, keepdim=True)
        less = -_own(d, bands) / (all_ - own) if counts.centred else torch.zeros_like(_own(d, bands))
        variance = (total - _own(squares, bands)) / (all_ - own) - less.square()
        eps = node.attrs[counts.eps]
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        after, before = (variance.clamp(min=0.0) + eps).rsqrt(), (total / all_ + eps).rsqrt()
        scale = self.graph.params[node.params[counts.scale]].data if counts.scale in node.params else None
        found = []
        for gradient, lead in ((batch.gradient[edge], 1), (batch.factors[edge], 2)):
            g = gradient if scale is None else gradient * scale
            steep = g * d
            moved = (after - before) * (steep.sum(-1, keepdim=True) - _own(steep, bands))
            moved = moved - less * after * (g.sum(-1, keepdim=True) - _own(g, bands))
            found.append(moved.flatten(lead, -2).sum(lead) if moved.dim() > lead + 1 else moved)
        return found[0], found[1]

    def _reduced(
        self, batch: Collected, counter: _Counter, counts: ChannelStatistics
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """That of a mean or a variance over what stays."""
        node, bands, edge = counter.node, counter.bands, Edge(counter.node.name)
        x, axis = batch.values[node.inputs[0]], bands[0].axis
        rank, axes = x.dim(), counts.axes(node, x.dim())
        rest = [a for a in axes if a != axis]
        all_ = math.prod(x.shape[a] for a in axes)
        own = all_ // x.shape[axis] * sum(band.inner for band in bands)
        d = x - x.mean(tuple(axes), keepdim=True)

        def owned(value: torch.Tensor) -> torch.Tensor:
            summed = _own(value.movedim(axis, -1), bands).movedim(-1, axis)
            return summed.sum(rest, keepdim=True) if rest else summed

        away = -owned(d) / (all_ - own)
        if counts.square:
            correction = node.attrs["correction"]
            correction = int(node.attrs.get("unbiased", True)) if correction is None else correction
            squares = d.square()
            total = squares.sum(tuple(axes), keepdim=True)
            stays = total - owned(squares) - (all_ - own) * away.square()
            away = stays / (all_ - own - correction) - total / (all_ - correction)
        found = []
        for gradient, lead in ((batch.gradient[edge], 1), (batch.factors[edge], 2)):
            if not node.attrs.get("keepdim"):
                for a in axes:
                    gradient = gradient.unsqueeze(a + lead - 1)
            product = (gradient * away).movedim(axis + lead - 1, -1)
            found.append(product.flatten(lead, -2).sum(lead) if rank > 2 else product)
        return found[0], found[1]


def _own(value: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
    """Sum over what each channel owns of the last axis, [..., channels]."""
    parts = (value.narrow(-1, band.start, band.size * band.inner) for band in bands)
    return torch.stack(
        [part.reshape(*part.shape[:-1], band.size, band.inner).sum(-1) for part, band in zip(parts, bands, strict=True)]
    ).sum(0)
