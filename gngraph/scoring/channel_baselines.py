"""New channels as other methods find them, behind the interface of gngraph's own and judged by the same model.

GradMax (Evci, van Merriënboer, Unterthiner, Vladymyrov, Pedregosa, *GradMax: Growing Neural Networks using Gradient Information*,
ICLR 2022), TINY (Verbockhaven, Rudkiewicz, Chevallier, Charpiat, *Growing Tiny Networks: Spotting Expressivity Bottlenecks
and Fixing Them Optimally*, TMLR 2024), and random in-weights with the steepest out-weights.

The first two need the growth matrix G, [outputs of the readers x inputs of the layer]: entry (o, i) is the mean over the samples
of V_o h_i, where V is what the readers' values should change by, h is what the layer reads, and for convolutions o also runs
over the reader's kernel and i over the layer's. A channel with in-weights v and out-weights u changes the readers' values by
u f(v h), and where f(z) ~ z its effect on the loss is -u G v, to first order.

The length of a step along what a method finds is that which the Gauss-Newton model likes best, on samples of its own, where the
papers take a learning rate or a line search on the loss. Departures that the setting asks for:

- A norm of the space's own channels (BatchNorm) passes a new channel on unchanged, as GradMax has it: its statistics are the
  channel's, and its gain and shift undo them.
- A non-linearity on the way counts as the identity (f(0) = 0, f'(0) = 1), also where f'(0) is something else, and a pooling picks
  the positions that it picks for the layer's most strongly read channel.
- Where several layers read the space, G has the rows of all of them, and the channel one step for all.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch

from gngraph.ir import Node
from gngraph.ops import lookup
from gngraph.rewrite.morphism import NewChannel
from gngraph.scoring.channel_finder import ChannelFinder
from gngraph.scoring.collect import Collected
from gngraph.scoring.dense_layers import apply_layer, channel_axis, patches_of, rows_of
from gngraph.scoring.isolation import Isolation
from gngraph.scoring.sites import Edge, ReadSite, SplitSite

if TYPE_CHECKING:
    from gngraph.scoring.proposer import Context

STAGE = 0.75
"""Share of the learn split at which directions are settled; the rest decides on the lengths of the steps."""

PROJECTION = 0.4
"""Share at which TINY settles what the readers' present weights can do."""

SMALLEST = 1e-6
"""Eigenvalues of a second moment below this share of the largest count as 0 in its inverse."""


class DirectedChannels(ChannelFinder):
    """Channels with in- and out-weights along given directions, and the step t along them that the model likes best."""

    share: ClassVar[float]
    """Share of the step that the in-weights take: they are scaled by t^share, the out-weights by t^(1 - share)."""

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        self.count = min(self.count, self.most())
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
        """Add a batch to the stage at hand; a batch across the border serves both, and later epochs serve none."""
        before, self._seen = self._seen, self._seen + len(batch.losses)
        if before >= self.samples:
            return
        if before < STAGE * self.samples:
            self.gather(batch)
        if self._seen > STAGE * self.samples:
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
        self._out = [u * _along(outer, u) for u in self._out]
        self._in, self._bias = self._in * _along(inner, self._in), self._bias * inner
        self._isolation = self.isolated()
        self.settle_norms(batch)


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


class Tiny(GrowingChannels):
    """TINY: the channels that best supply the change of the readers' values which their present weights cannot.

    V is what is left of -g when the least-squares change of the reader's weights and bias has done its part. With S the mean of
    h h^T over the samples, of all positions, and U L W^T the singular value decomposition of G S^(-1/2), channel k has the
    in-weights sqrt(L_k) S^(-1/2) W_k and the out-weights sqrt(L_k) U_k; the layer's bias counts as an input that is always 1. The
    least-squares change is settled on samples of its own, where the paper takes the same ones for both.
    """

    share = 0.5

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        self._moments = [_Moments() for _ in reads]
        self._inputs = _Moments()
        self._able: list[tuple[torch.Tensor, torch.Tensor]] = []

    def gather(self, batch: Collected) -> None:
        """Add to the least-squares problems, then to the growth matrix of what they leave."""
        gradients = [batch.gradient[edge] for edge in self.edges()]
        readers = [self.graph.nodes[read.edge.reader] for read in self.reads]
        inputs = [batch.values[reader.inputs[0]] for reader in readers]
        start, border = self._seen - len(batch.losses), PROJECTION * self.samples
        if start < border:
            for reader, weight, x, g, own in zip(readers, self.weights, inputs, gradients, self._moments, strict=True):
                own.add(_with_one(patches_of(reader, weight, x)), -rows_of(reader, g))
        self._inputs.add(self._layer_inputs(batch))
        if self._seen <= border:
            return
        if not self._able:
            solved = [own.cross @ _power(own.second, -1.0) for own in self._moments]
            self._able = [(a[:, :-1].view_as(w), a[:, -1]) for a, w in zip(solved, self.weights, strict=True)]
        wanted = [
            -g - _biased(reader, apply_layer(reader, x, change), shift)
            for reader, x, g, (change, shift) in zip(readers, inputs, gradients, self._able, strict=True)
        ]
        self.add(batch, wanted)

    def directions(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Whitened singular vectors."""
        root = _power(self._inputs.second / self._inputs.samples, -0.5)
        left, values, right = torch.linalg.svd(self.growth() @ root, full_matrices=False)
        size = values[: self.count].sqrt().unsqueeze(1)
        rows, out = size * (right[: self.count] @ root), size * left[:, : self.count].T
        n = self.weight[0].numel()
        bias = rows[:, n] if rows.shape[1] > n else torch.zeros_like(self._bias)
        return self.gathered_in(rows[:, :n]), bias, self.divided(out)

    def _layer_inputs(self, batch: Collected) -> torch.Tensor:
        patches = patches_of(self.layer, self.weight, batch.values[self.layer.inputs[0]])
        return _with_one(patches) if "bias" in self.layer.params else patches


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
        return self._in, self._bias, [-cross / _along(size, cross) for cross in self._cross]

    def settle_norms(self, batch: Collected) -> None:
        """Give BatchNorms the channels' statistics."""
        self.isolation.calibrate(batch.values)


class _Moments:
    """Sums over samples and positions: of x x^T, and of v x^T for what is to be explained by x."""

    def __init__(self) -> None:
        self.second = self.cross = torch.zeros(())
        self.samples = 0

    def add(self, x: torch.Tensor, v: torch.Tensor | None = None) -> None:
        """Add x [N, inputs, positions] and v [N, outputs, positions]."""
        flat = x.movedim(1, 0).flatten(1)
        self.second = self.second.to(flat) + flat @ flat.T
        if v is not None:
            self.cross = self.cross.to(flat) + v.movedim(1, 0).flatten(1) @ flat.T
        self.samples += len(x)


def _with_one(x: torch.Tensor) -> torch.Tensor:
    """`x` [N, inputs, positions] with an input that is always 1 behind the others."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def _biased(layer: Node, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A layer's value with a bias added."""
    return (value.movedim(channel_axis(layer), -1) + bias).movedim(-1, channel_axis(layer))


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


def _power(matrix: torch.Tensor, power: float) -> torch.Tensor:
    """A negative power of a positive semidefinite matrix; directions without a second moment are left out."""
    values, vectors = torch.linalg.eigh(matrix.double())  # in single precision it may fail where channels are dead
    kept = values > SMALLEST * values[-1]
    raised: torch.Tensor = (vectors * torch.where(kept, values.clamp(min=1e-30) ** power, 0.0)) @ vectors.T
    return raised.to(matrix)


def _along(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A vector over the first axis of `like`, for products with it."""
    return vector.view(-1, *[1] * (like.dim() - 1))
