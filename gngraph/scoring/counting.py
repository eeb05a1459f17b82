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
        x = _channels_last(batch.values[node.inputs[0]], counts)
        places = (
            tuple(range(1 - x.dim(), -1)) if counts.whole else ()
        )  # the other axes that it takes its statistics over

        def summed(value: torch.Tensor) -> torch.Tensor:
            return value.sum((*places, -1), keepdim=True)

        def owned(value: torch.Tensor) -> torch.Tensor:
            own = _own(value, bands)
            return own.sum(places, keepdim=True) if places else own

        each = math.prod(x.shape[place] for place in places)
        all_, own = each * x.shape[-1], each * sum(band.inner for band in bands)
        d = x - summed(x) / all_ if counts.centred else x
        squares = d.square()
        total = summed(squares)
        less = -owned(d) / (all_ - own) if counts.centred else torch.zeros_like(owned(d))
        variance = (total - owned(squares)) / (all_ - own) - less.square()
        eps = node.attrs[counts.eps]
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        after, before = (variance.clamp(min=0.0) + eps).rsqrt(), (total / all_ + eps).rsqrt()
        scale = self.graph.params[node.params[counts.scale]].data if counts.scale in node.params else None
        found = []
        for gradient, lead in ((batch.gradient[edge], 1), (batch.factors[edge], 2)):
            g = _channels_last(gradient, counts, lead) * (1.0 if scale is None else scale)
            steep = g * d
            moved = (after - before) * (summed(steep) - owned(steep))
            moved = moved - less * after * (summed(g) - owned(g))
            found.append(moved.flatten(lead, -2).sum(lead) if moved.dim() > lead + 1 else moved)
        return found[0], found[1]

    def _reduced(
        self, batch: Collected, counter: _Counter, counts: ChannelStatistics
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """That of a mean, a sum, a variance, its root, a p-norm or an extremum over what stays."""
        node, bands = counter.node, counter.bands
        x, axis = batch.values[node.inputs[0]], bands[0].axis
        axes = counts.axes(node, x.dim())
        if counts.extremum:
            return _of_change(batch, counter, axes, _next_extremum(x, axis, bands, counts.extremum))
        rest = [a for a in axes if a != axis]
        all_ = math.prod(x.shape[a] for a in axes)
        own = all_ // x.shape[axis] * sum(band.inner for band in bands)
        d = x - x.mean(tuple(axes), keepdim=True)

        def owned(value: torch.Tensor) -> torch.Tensor:
            summed = _own(value.movedim(axis, -1), bands).movedim(-1, axis)
            return summed.sum(rest, keepdim=True) if rest else summed

        if counts.total:
            return _of_change(batch, counter, axes, -owned(x))
        order = counts.order_of(node) if counts.order else None
        if order is not None:
            powers = x.abs() ** order
            total = powers.sum(tuple(axes), keepdim=True)
            stays = (total - owned(powers)).clamp(min=0.0)
            return _of_change(batch, counter, axes, stays ** (1 / order) - total ** (1 / order))
        away = -owned(d) / (all_ - own)
        if counts.power:
            correction = node.attrs["correction"]
            correction = int(node.attrs.get("unbiased", True)) if correction is None else correction
            squares = d.square()
            total = squares.sum(tuple(axes), keepdim=True)
            stays = total - owned(squares) - (all_ - own) * away.square()
            after, before = stays.clamp(min=0.0) / (all_ - own - correction), total / (all_ - correction)
            away = after - before if counts.power == 2 else after.sqrt() - before.sqrt()
        return _of_change(batch, counter, axes, away)


def _of_change(
    batch: Collected, counter: _Counter, axes: Sequence[int], away: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The effect of each channel's change of a statistic over some axes, which has its place along the axis of the channels."""
    node, edge, axis = counter.node, Edge(counter.node.name), counter.bands[0].axis
    found = []
    for gradient, lead in ((batch.gradient[edge], 1), (batch.factors[edge], 2)):
        if not node.attrs.get("keepdim"):
            for a in axes:
                gradient = gradient.unsqueeze(a + lead - 1)
        product = (gradient * away).movedim(axis + lead - 1, -1)
        found.append(product.flatten(lead, -2).sum(lead) if away.dim() > 2 else product)
    return found[0], found[1]


def _next_extremum(x: torch.Tensor, axis: int, bands: Sequence[Band], sign: int) -> torch.Tensor:
    """By how much the extremum of an axis changes without each of the channels, along that axis: to the next one, or not at all."""
    ahead, at = (sign * x).topk(min(2, x.shape[axis]), axis)
    first, second = ahead.narrow(axis, 0, 1), ahead.narrow(axis, ahead.shape[axis] - 1, 1)
    change = torch.zeros_like(x).scatter(axis, at.narrow(axis, 0, 1), sign * (second - first))
    return torch.stack([change.narrow(axis, band.start, band.size) for band in bands]).sum(0)


def _channels_last(value: torch.Tensor, counts: ChannelStatistics, axis: int = 1) -> torch.Tensor:
    """What a norm reads or gives, with its channels along the last axis; `axis` is theirs in a norm over all axes."""
    return value.movedim(axis, -1) if counts.whole else value


def _own(value: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
    """Sum over what each channel owns of the last axis, [..., channels]."""
    parts = (value.narrow(-1, band.start, band.size * band.inner) for band in bands)
    return torch.stack(
        [part.reshape(*part.shape[:-1], band.size, band.inner).sum(-1) for part, band in zip(parts, bands, strict=True)]
    ).sum(0)
