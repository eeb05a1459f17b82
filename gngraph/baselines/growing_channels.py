"""The growth matrix, which GradMax and TINY take new channels from.

It is G, [outputs of the readers x inputs of the layer]: entry (o, i) is the mean over the samples of V_o h_i, where V is what the
readers' values should change by, h is what the layer reads, and for convolutions o also runs over the reader's kernel and i over
the layer's. A channel with in-weights v and out-weights u changes the readers' values by u f(v h), and where f(z) ~ z its effect on
the loss is -u G v, to first order.

Departures that the setting asks for:

- A non-linearity on the way counts as the identity (f(0) = 0, f'(0) = 1), also where f'(0) is something else, and a pooling picks
  the positions that it picks for the layer's most strongly read channel.
- Where several layers read the space, G has the rows of all of them, and the channel one step for all.
"""

from __future__ import annotations

from functools import cached_property

import torch

from gngraph.baselines.directed_channels import DirectedChannels
from gngraph.ir import Node
from gngraph.rewrite.morphism import NewChannel
from gngraph.scoring.collect import Collected
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.dense_layers import apply_layer, channel_axis, rows_of
from gngraph.scoring.proposers.isolation import Isolation
from gngraph.scoring.sites import ReadSite, SplitSite


class GrowingChannels(DirectedChannels):
    """Channels from the singular vectors of a growth matrix."""

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        self._grown, inputs = 0, self.weight[0].numel() + ("bias" in self.layer.params)
        self._growth = [weight.new_zeros(*size, inputs) for weight, size in zip(self.weights, self.sizes, strict=True)]

    @cached_property
    def weights(self) -> list[torch.Tensor]:
        """Weights of the readers."""
        return [self.graph.params[read.slot.param].data for read in self.reads]

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """For each read site its outputs, and the entries of its kernel that read one channel."""
        return [
            (len(weight), read.bands[0].inner * weight[0, 0].numel())
            for read, weight in zip(self.reads, self.weights, strict=True)
        ]

    def most(self) -> int:
        """The rank of the growth matrix, at most."""
        return min(self.count, self.weight[0].numel(), sum(outputs * entries for outputs, entries in self.sizes))

    @cached_property
    def probe(self) -> Isolation:
        """Channels like the one that is read most strongly, but for their norms; one for each output of a reader."""
        channel = NewChannel(self.site.space, self.plain_norms())
        return Isolation(self.graph, self.spaces, self.site.space, [channel] * max(map(len, self.weights)))

    def add(self, batch: Collected, wanted: list[torch.Tensor]) -> None:
        """Add a batch to the growth matrix, [outputs, entries, inputs] for each read site; the last input is the bias.

        What is heard of one probe channel by one output through one entry of the reader's kernel is linear in what the layer
        writes. Its gradient in the direction wanted, back at the layer, times what the layer reads, is that row of G. All
        outputs are treated as one batch.

        Args:
            wanted: V at each reader.
        """
        h = batch.values[self.layer.inputs[0]]
        changed = self.probe.run_linear(self.layer.name, batch.values)
        z, axis = changed[self.layer.name], channel_axis(self.layer)
        first = next(slot.offset for slot in self.probe.space.slots if slot.param == self.site.slot.param)
        self._grown += len(h)
        for site, weight, target, total in zip(self.probe.reads, self.weights, wanted, self._growth, strict=True):
            reader, band, outputs = self.probe.graph.nodes[site.edge.reader], site.bands[0], len(weight)
            heard = changed[site.edge.value].narrow(band.axis, band.start, outputs * band.inner)
            if not heard.requires_grad:  # it reads the space before this layer writes it
                continue
            for entry in range(total.shape[1]):
                single = weight.new_zeros(1, total.shape[1])
                single[0, entry] = 1.0
                out = _by_output(reader, heard, single.view(1, band.inner, *weight.shape[2:]), outputs)
                (back,) = torch.autograd.grad(out, z, target, retain_graph=True)
                back = back.narrow(axis, first, outputs)
                row = weight.new_zeros(outputs, *self.weight.shape[1:]).requires_grad_(True)
                (cross,) = torch.autograd.grad(apply_layer(self.layer, h, row), row, back)
                total[:, entry, : cross[0].numel()] += cross.flatten(1)
                if "bias" in self.layer.params:
                    total[:, entry, -1] += rows_of(self.layer, back).sum((0, 2))

    def growth(self) -> torch.Tensor:
        """The growth matrix, [outputs and entries of all read sites, inputs]."""
        return torch.cat([total.flatten(0, 1) for total in self._growth]) / self._grown

    def divided(self, out: torch.Tensor) -> list[torch.Tensor]:
        """Out-weights [K, outputs and entries of all read sites] by read site, [K, outputs, entries, *kernel]."""
        parts = torch.split(out, [outputs * entries for outputs, entries in self.sizes], 1)
        return [
            part.reshape(self.count, len(weight), read.bands[0].inner, *weight.shape[2:])
            for part, weight, read in zip(parts, self.weights, self.reads, strict=True)
        ]

    def gathered_in(self, rows: torch.Tensor) -> torch.Tensor:
        """In-weights [K, inputs without a bias] as [K, *]."""
        return rows.reshape(self.count, *self.weight.shape[1:])


def _by_output(layer: Node, heard: torch.Tensor, weight: torch.Tensor, outputs: int) -> torch.Tensor:
    """Each output of a layer from channels of its own, all with one weight: [N, outputs, ...] (or [..., outputs]).

    Args:
        heard: entries of `outputs` channels along the layer's channel axis.
        weight: [1, entries of a channel, *kernel].
    """
    if channel_axis(layer) == -1:
        return apply_layer(layer, heard.reshape(*heard.shape[:-1], outputs, -1), weight).squeeze(-1)
    out = apply_layer(layer, heard.reshape(len(heard) * outputs, -1, *heard.shape[2:]), weight)
    return out.reshape(len(heard), outputs, *out.shape[2:])
