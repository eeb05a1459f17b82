"""New channels as candidates: in-weights from perturbed copies and from what the loss asks for, out-weights in closed form.

The learn split is spent in three stages, each on samples that the stages before did not see: which in-weights, which
out-weights, and how long a step along them.
"""

from __future__ import annotations

import math

import torch

from gngraph.rewrite.morphism import NewChannel
from gngraph.scoring.collect import Collected
from gngraph.scoring.damping import damped
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.channel_finder import ChannelFinder
from gngraph.scoring.proposers.dense_layers import apply_layer, channel_axis, patches_of, rows_of, second_moment
from gngraph.scoring.proposers.isolation import Isolation
from gngraph.scoring.sites import Edge, ReadSite, SplitSite

WEIGHTS_SETTLED = (0.25, 0.75)
"""Shares of the learn split at which in-weights and out-weights are settled."""

PERTURBATION = 1.0
"""Spread of a perturbed copy's weights around the channel that it copies, as a share of their root mean square."""

TRUST_REGION = 0.03
"""Largest root mean square of what a new channel adds to a reader's values, as a share of their deviation: what lies behind the
reader is linearised (docs/results.md#trust-in-new-channels). A reader whose values are what the network returns has no bound:
nothing lies behind it."""

SWEEPS = 20
"""Sweeps over the read sites of a space in which the steps along their out-weights are balanced."""

ROWS = 8192
"""Patches of a batch, at most, that the second moments of a layer's input are estimated from."""


class NewChannelFinder(ChannelFinder):
    """Finds new channels of one space that one of its layers writes; the other layers that write it give them zeros.

    Behind a non-linearity half of the channels are copies of the channels that are read most strongly, with perturbed
    in-weights, and half are the two signs of directions (see `_Demand`). In a linear chain all are directions: there a new
    channel is the only morphism that adds to what the layers can compute together.
    """

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        width = len(self.weight)
        left = self.weight[0].numel() - width
        if site.linear:
            heard = sum(self.graph.params[read.slot.param].data.shape[0] for read in reads)
            self.directions = self.count = max(0, min(self.count, left, heard - width))
        else:
            self.directions = max(0, min(self.count // 4, left))
        self.borders = [context.settled(share) for share in WEIGHTS_SETTLED]
        self._demand: _Demand | None = None
        self._fits: list[_Fit] = []
        self._out: list[torch.Tensor] = []
        self._most = torch.zeros(self.count, len(reads)).to(self.weight)
        self._slope = torch.zeros(self.count, len(reads)).to(self.weight)
        self._curvature = torch.zeros(self.count, len(reads), len(reads)).to(self.weight)

    def learn(self, batch: Collected) -> None:
        """Add a batch to the stage at hand."""
        before, self._seen = self._seen, self._seen + batch.samples
        if before >= self.samples:
            return
        first, second = self.borders
        if before < first and self.directions:
            self._demand = self._demand or _Demand(self)
            self._demand.add(batch)
        with torch.no_grad():
            if before >= first and self._isolation is None:
                self.isolation.calibrate(batch.values, batch.ranks)
                self._fits = [
                    _Fit(self.isolation, read, self.graph.params[read.slot.param].data) for read in self.isolation.reads
                ]
            if first <= before < second:
                changed = self.isolation.run(batch.values)
                for fit in self._fits:
                    fit.add(batch, changed)
            if before >= second:
                if not self._out:
                    self._out = [fit.solve() for fit in self._fits]
                    self._most = torch.stack([f.most(u) for f, u in zip(self._fits, self._out, strict=True)], 1)
                s, q = self.effects(batch, self._out)
                slope, curvature = batch.total(s.sum(0), torch.einsum("rnki,rnkj->kij", q, q))
                self._slope += slope
                self._curvature += curvature

    def out(self) -> list[torch.Tensor]:
        """Out-weights of the channels for each read site, [K, outputs, entries, *kernel], with the best steps taken."""
        steps = _best_steps(self._slope, self._curvature, self._most).unbind(1)
        return [u * step.view(-1, *[1] * (u.dim() - 1)) for u, step in zip(self._out, steps, strict=bool(self._out))]

    def starts(self) -> list[dict[str, torch.Tensor]]:
        """The channels with their in-weights."""
        starts: list[dict[str, torch.Tensor]] = []
        if self._demand is not None and self._demand.count:
            for row, bias in self._demand.rows(self.directions):
                for sign in (1.0,) if self.site.linear else (1.0, -1.0):
                    start = self.entries(self.parents[0])
                    start[self.site.slot.param] = sign * row.unsqueeze(0)
                    if "bias" in self.layer.params:
                        start[self.layer.params["bias"]] = sign * bias.unsqueeze(0)
                    starts.append(start)
        while len(starts) < self.count:
            start = self.entries(self.parents[len(starts) % len(self.parents)])
            row = start[self.site.slot.param]
            noise = torch.randn(row.shape, generator=self.generator).to(row)
            start[self.site.slot.param] = row + PERTURBATION * row.square().mean().sqrt() * noise
            starts.append(start)
        return starts


class _Demand:
    """What the readers' gradients ask of a layer: B = E[g (x) patches], whitened, without what its channels can do already.

    With A the covariance of the layer's patches h and S the second moment of the gradient factors at a reader, the top
    right singular vectors of S^(-1/2) B A^(-1/2) are the features of h that lower the loss most for their size, to first
    order and with the readers free to use them. B reaches back through what lies between, with the non-linearities taken
    as identities and each reader's kernel as a mean. Whitened features that the layer's rows span are projected away; in a
    linear chain so is what the readers hear of the space already, which those rows could be trained to say.
    """

    def __init__(self, finder: NewChannelFinder) -> None:
        self.finder = finder
        self.layer, self.weight = finder.layer, finder.weight
        graph = finder.graph
        self.weights = [graph.params[read.slot.param].data for read in finder.reads]
        probe = NewChannel(finder.site.space, finder.entries(finder.parents[0]))
        most = max(len(weight) for weight in self.weights)
        self.probe = Isolation(graph, finder.spaces, finder.site.space, [probe] * most)
        self.start = next(s.offset for s in self.probe.space.slots if s.param == finder.site.slot.param)
        n = self.weight[0].numel()
        self.cross = [weight.new_zeros(len(weight), n) for weight in self.weights]
        self.slope = [weight.new_zeros(len(weight)) for weight in self.weights]
        self.factor = [weight.new_zeros(len(weight), len(weight)) for weight in self.weights]
        self.first, self.second = self.weight.new_zeros(n), self.weight.new_zeros(n, n)
        self.count = 0

    def add(self, batch: Collected) -> None:
        """Add a batch."""
        h = batch.values[self.layer.inputs[0]]
        changed = self.probe.run_linear(self.layer.name, batch.values)
        z, axis = changed[self.layer.name], channel_axis(self.layer)
        for i, (site, weight) in enumerate(zip(self.probe.reads, self.weights, strict=True)):
            reader, edge = self.probe.graph.nodes[site.edge.reader], Edge(site.edge.reader)
            band, outputs = site.bands[0], len(weight)
            mean = weight.new_zeros(outputs, outputs, band.inner, *weight.shape[2:])
            mean[range(outputs), range(outputs)] = 1.0 / mean[0, 0].numel()
            heard = changed[site.edge.value].narrow(band.axis, band.start, outputs * band.inner)
            out = apply_layer(reader, heard, mean.flatten(1, 2))
            if not out.requires_grad:  # it reads the space before this layer writes it
                continue
            (back,) = torch.autograd.grad(out, z, batch.gradient[edge], retain_graph=True)
            back = back.narrow(axis, self.start, outputs)
            row = self.weight.new_zeros(outputs, *self.weight.shape[1:]).requires_grad_(True)
            (cross,) = torch.autograd.grad(apply_layer(self.layer, h, row), row, back)
            sums = cross.flatten(1), rows_of(self.layer, back).sum((0, 2)), second_moment(reader, batch.factors[edge])
            cross, slope, factor = batch.total(*sums)
            self.cross[i] += cross
            self.slope[i] += slope
            self.factor[i] += factor
        positions = z.numel() // (len(z) * z.shape[axis])
        some = min(max(1, ROWS // positions), batch.samples)
        patches = patches_of(self.layer, self.weight, h[: max(0, some - batch.rows.start)]).movedim(1, 2).flatten(0, 1)
        share = len(patches) / (some * positions)
        mean = patches.mean(0) * share if share else torch.zeros_like(self.first)
        first, second = batch.total(mean, patches.T @ patches / (some * positions))
        self.first += first
        self.second += second
        self.count += 1

    def rows(self, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """In-weights of `count` channels, each with the bias that centres it; as large as the layer's channels are."""
        mean = self.first / self.count
        covariance = self.second / self.count - torch.outer(mean, mean)
        root = torch.linalg.cholesky(damped(covariance))
        own = self.weight.flatten(1)
        asked, heard = [], []
        for read, weight, cross, slope, factor in zip(
            self.finder.reads, self.weights, self.cross, self.slope, self.factor, strict=True
        ):
            # in single precision it may fail where channels are dead
            values, vectors = (t.to(factor) for t in torch.linalg.eigh(damped(factor).double()))
            centred = cross - torch.outer(slope, mean)
            asked.append((vectors / values.sqrt()) @ (vectors.T @ centred))
            part = weight.narrow(read.slot.axis, read.slot.offset, len(own) * read.slot.inner)
            summed = part.reshape(len(weight), len(own), -1).sum(2)
            heard.append((vectors * values.sqrt()) @ (vectors.T @ summed))
        demand = torch.linalg.solve_triangular(root, torch.cat(asked).T, upper=False).T
        spanned = torch.linalg.qr(root.T @ own.T).Q
        demand = demand - (demand @ spanned) @ spanned.T
        if self.finder.site.linear:
            spanned = torch.linalg.qr(torch.cat(heard)).Q
            demand = demand - spanned @ (spanned.T @ demand)
        top = torch.linalg.svd(demand, full_matrices=False).Vh[:count]
        rows = torch.linalg.solve_triangular(root.T, top.T, upper=True).T
        size = ((own @ covariance) * own).sum(1).clamp(min=0.0).sqrt().mean()
        rows = rows * (size / ((rows @ covariance) * rows).sum(1, keepdim=True).clamp(min=1e-30).sqrt())
        return [(row.view(self.weight.shape[1:]), -(row @ mean)) for row in rows]


class _Fit:
    """Out-weights of new channels at one read site, by one damped Newton step with Kronecker factors."""

    def __init__(self, isolation: Isolation, site: ReadSite, weight: torch.Tensor) -> None:
        self.isolation, self.site, self.weight = isolation, site, weight
        self.reader = isolation.graph.nodes[site.edge.reader]
        channels, outputs = isolation.space.size, len(self.weight)
        entries = site.bands[0].inner * self.weight[0, 0].numel()
        self.cross = self.weight.new_zeros(channels, outputs, entries)
        self.input = self.weight.new_zeros(channels, entries, entries)
        self.factor = self.weight.new_zeros(outputs, outputs)
        self.samples = self.positions = 0
        self.total, self.square = self.weight.new_zeros(2, outputs)

    def add(self, batch: Collected, changed: dict[str, torch.Tensor]) -> None:
        """Add a batch, given what carries the channels."""
        edge = Edge(self.site.edge.reader)
        gradient, value = rows_of(self.reader, batch.gradient[edge]), rows_of(self.reader, batch.values[edge.value])
        cross, moment = torch.zeros_like(self.cross), torch.zeros_like(self.input)
        for channel in range(len(self.cross)):
            patches = patches_of(self.reader, self.weight, self.isolation.read(self.site, changed, channel))
            cross[channel] = torch.einsum("nop,nmp->om", gradient, patches)
            moment[channel] = torch.einsum("nlp,nmp->lm", patches, patches)
        factor = second_moment(self.reader, batch.factors[edge]) / gradient.shape[2]
        sums = batch.total(cross, moment, factor, value.sum((0, 2)), value.square().sum((0, 2)))
        for kept, new in zip((self.cross, self.input, self.factor, self.total, self.square), sums, strict=True):
            kept += new
        self.samples += batch.samples
        self.positions += batch.samples * gradient.shape[2]

    def solve(self) -> torch.Tensor:
        """u = -S^-1 V A^-1, [channels, outputs, entries of a channel, *kernel]."""
        left = torch.linalg.solve(damped(self.factor / self.samples), self.cross / self.samples)
        u: torch.Tensor = -torch.linalg.solve(damped(self.input / self.samples), left.mT).mT
        return u.reshape(*u.shape[:2], self.site.bands[0].inner, *self.weight.shape[2:])

    def spread(self, out: torch.Tensor) -> torch.Tensor:
        """Root mean square of what out-weights `out` add to the reader's values, as a share of their deviation, [channels]."""
        rows = out.flatten(2)
        moved = torch.einsum("kol,klm,kom->k", rows, self.input, rows) / self.positions
        variance = self.square / self.positions - (self.total / self.positions).square()
        # rounding may leave a hair below 0 of what next to nothing passes through, and a root of it would be no step
        spread: torch.Tensor = (moved.clamp(min=0.0) / variance.sum().clamp(min=1e-30)).sqrt()
        return spread

    def most(self, out: torch.Tensor) -> torch.Tensor:
        """Largest steps along `out` that the model is trusted with, [channels]."""
        if self.site.edge.reader in self.isolation.graph.outputs:
            return torch.full((len(out),), math.inf).to(out)
        most: torch.Tensor = TRUST_REGION / self.spread(out).clamp(min=1e-30)
        return most


def _best_steps(slope: torch.Tensor, curvature: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Steps t from 0 to `most` that minimise slope t + t curvature t / 2, by coordinate descent, [K, sites].

    Args:
        slope, most: [K, sites].
        curvature: [K, sites, sites], positive semidefinite.
    """
    steps = torch.zeros_like(slope)
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    for _ in range(SWEEPS):
        for i in range(slope.shape[1]):
            rest = slope[:, i] + (curvature[:, i] * steps).sum(1) - diagonal[:, i] * steps[:, i]
            steps[:, i] = torch.where(diagonal[:, i] > 0, -rest / diagonal[:, i], 0.0)
            steps[:, i] = steps[:, i].clamp(min=0.0).minimum(most[:, i])
    return steps
