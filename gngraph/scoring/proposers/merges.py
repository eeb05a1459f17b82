"""Merging: removing a channel while its readers rebuild it from other channels, by least squares under the loss's curvature.

Where a reader finds sum_j b_j a_j + m in the place of channel a_c, the loss's change along a curvature factor v at its input is
q = <v_c, sum_j b_j a_j + m - a_c>, with v_c what the factor says of channel c. b minimises the mean square of q, the
Gauss-Newton metric, in which an error counts where the loss can see it. Each sample gives one such equation only, so a share
of plain least squares (the covariance of what is read) is added as a prior.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from gngraph.analysis.channels import ChannelSpaces, Slot
from gngraph.analysis.cost import Cost, CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import MonteCarlo, fallback
from gngraph.ir import Graph
from gngraph.ir.inputs import over_samples
from gngraph.rewrite.morphism import MergeChannel, Morphism, PruneChannel, edits_of
from gngraph.scoring.collect import Collected, Collector, entries
from gngraph.scoring.counting import WithoutChannel
from gngraph.scoring.damping import damped, mean_eigenvalue
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.prunes import over_positions, summed_weight, written_axis
from gngraph.scoring.samples_first import with_samples_first
from gngraph.scoring.sites import Band, Edge, ReadSite, reads_by_space

MOST_SOURCES = 8
"""Channels that a candidate is rebuilt from, at most, and at most a quarter of its space: they cannot be removed with it."""

REST = 256
"""Channels that each is rebuilt from, at most, once it is known which ones stay."""

SOURCES_SETTLED = 0.3
"""Share of the learn split at which the sources are settled."""

PRIOR = 8.0
"""Weight of plain least squares relative to the Gauss-Newton metric, were there as many equations as unknowns."""

MERGE_RIDGE = 1e-6
"""Added to the diagonal of every least-squares problem, as a share of its mean."""


def propose_merges(context: Context) -> Iterator[Merging]:
    """One proposer for each free space of more than one channel, of the merge of every channel, each alone."""
    for sites in reads_by_space(context.graph, context.spaces).values():
        size = sites[0].bands[0].size
        if size > 1:
            few = min(MOST_SOURCES, -(-size // 4))
            yield Merging(context, sites, range(size), (), few)


def merged_into_rest(
    graph: Graph, analyses: AnalysisManager, morphisms: Iterable[Morphism], also: Iterable[Morphism] = ()
) -> list[Morphism]:
    """The same morphisms, with every removal a merge into all the channels that stay of its space.

    What is removed together is known only once it is chosen; then more is kept of it than when each channel was scored alone.
    Cost: one pass over the learn split, with one sampled curvature factor; none where nothing is removed.

    Args:
        graph: before the rewrite.
        analyses: whose problem has the samples.
        morphisms: chosen, numbered as before the rewrite.
        also: what comes with them as it is: nothing is rebuilt from what it removes.

    Raises:
        PassError: there is no problem; or a channel does not exist or is removed twice, or none of a space stays.
        FrozenSpaceError: a space is frozen.
    """
    morphisms, spaces = list(morphisms), analyses.get(ChannelSpaces, graph)
    removals, others = ([m for m in ms if isinstance(m, PruneChannel | MergeChannel)] for ms in (morphisms, also))
    # says what is wrong with them
    edits_of(graph, spaces, [PruneChannel(m.space, m.channel) for m in (*removals, *others)])
    if not removals:
        return morphisms
    problem, graph = analyses.problem, with_samples_first(over_samples(graph))
    spaces = analyses.get(ChannelSpaces, graph)
    sites, graph = reads_by_space(graph, spaces), graph.to(device=problem.device)
    learn, own, gone = problem.splits.learn, dict[str, list[int]](), dict[str, list[int]]()
    for m in removals:
        own.setdefault(m.space, []).append(m.channel)
    for m in (*removals, *others):
        gone.setdefault(m.space, []).append(m.channel)
    context = Context(graph, spaces, ScoringOptions(), problem.stream(), len(learn))
    groups = [Merging(context, sites[name], own[name], gone[name], REST) for name in own]
    curvature, _ = fallback(problem.loss_fn, MonteCarlo())
    collector = Collector(graph, [edge for group in groups for edge in group.edges()], problem.loss_fn)
    noise = problem.stream(problem.device)
    for piece in collector.pieces(problem.runner.read(learn, graph), curvature, noise, context.borders):
        for group in groups:
            group.learn(piece)
        del piece
    merged = {(m.space, m.channel): m for group in groups for m, _ in group.morphisms()}
    return [merged[m.space, m.channel] if isinstance(m, PruneChannel | MergeChannel) else m for m in morphisms]


class Merging:
    """The best reconstructions of channels of one space, and their effect, exactly as the rewrite has it.

    The first share of the samples decides from which channels each is rebuilt, by their partial correlations; the rest decides
    with which weights. Every slot of every reader has its own.

    Args:
        context: what proposers are made from.
        sites: all that reads the space.
        channels: the channels to rebuild, T of them.
        gone: channels that none is rebuilt from.
        count: channels that each is rebuilt from, at most.
    """

    def __init__(
        self, context: Context, sites: Sequence[ReadSite], channels: Sequence[int], gone: Sequence[int], count: int
    ) -> None:
        self.space = sites[0].space
        self.uncounted = WithoutChannel(context.graph, context.spaces, self.space)
        self.of_rows = not self.uncounted.edges()
        size = sites[0].bands[0].size
        self.channels = torch.tensor(channels)
        kept = torch.ones(size, dtype=torch.bool)
        kept[list(gone)] = False
        self.kept = kept.repeat(len(channels), 1)
        self.kept[torch.arange(len(channels)), self.channels] = False
        self.count = count
        self.samples = context.samples
        self.start = context.settled(SOURCES_SETTLED) if count < int(self.kept[0].sum()) else 0
        slots: dict[Slot, list[ReadSite]] = {}
        for site in sites:
            slots.setdefault(site.slot, []).append(site)
        tied = context.spaces[self.space].tied
        self.reads = [
            _Read(
                context.graph, own, self.channels, slot.param in tied or not all(place.alike for place in slot.across)
            )
            for slot, own in slots.items()
        ]
        self._seen = 0
        self._sources: torch.Tensor | None = None

    def edges(self) -> list[Edge]:
        """Edges whose gradients are needed."""
        return [edge for read in self.reads for edge in read.edges()] + self.uncounted.edges()

    @torch.no_grad()
    def learn(self, batch: Collected) -> None:
        """Add a batch to the covariances, and, once the sources are settled, to the least-squares problems; later epochs do not."""
        before, self._seen = self._seen, self._seen + batch.samples
        if before >= self.samples:
            return
        for read in self.reads:
            read.add_moments(batch)
        if before >= self.start:
            if self._sources is None:
                self._sources = self._choose()
            for read in self.reads:
                read.add_equations(batch, self._sources)

    def _choose(self) -> torch.Tensor:
        """The sources of every channel, [T, K]."""
        if self.start == 0:
            return self.kept.nonzero()[:, 1].view(len(self.channels), -1)
        total = sum(read.partial_correlations(self.kept) for read in self.reads)
        assert isinstance(total, torch.Tensor)
        return total.topk(self.count).indices

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect on every sample: s [N, T], q [R, N, T]."""
        s: torch.Tensor | float = 0.0
        q: torch.Tensor | float = 0.0
        for read in self.reads:
            b = read.combination(self._sources)
            for edge, band in read.stretches:
                change = torch.einsum("tc,nc...->nt...", b.to(batch.losses), entries(batch.read(edge), band, 1))
                s = s + (entries(batch.gradient[edge], band, 1)[:, self.channels] * change).flatten(2).sum(2)
                q = q + (entries(batch.factors[edge], band, 2)[:, :, self.channels] * change).flatten(3).sum(3)
            if read.summed is not None:
                edge, axis = Edge(read.reader), read.written
                kept = torch.einsum("oti,ti->ot", read.summed[:, self.channels], read.constant(b).to(batch.losses))
                s = s + over_positions(batch.gradient[edge], axis, 1) @ kept
                q = q + over_positions(batch.factors[edge], axis, 2) @ kept
        for first, second in self.uncounted.effects(batch):
            s, q = s + first[:, self.channels], q + second[:, :, self.channels]
        assert isinstance(s, torch.Tensor) and isinstance(q, torch.Tensor)
        return s, q

    def morphisms(self) -> Iterator[tuple[MergeChannel, str]]:
        """A merge of every channel, in order."""
        solved = [(read, read.combination(self._sources)) for read in self.reads]
        for t, channel in enumerate(self.channels.tolist()):
            weights: dict[str, torch.Tensor] = {}
            means: dict[str, torch.Tensor] = {}
            for read, b in solved:
                row = b[t : t + 1].cpu().index_fill(1, self.channels[t], 0.0)
                for slot in (read.slot, *read.beside):
                    weights[slot.param] = torch.cat([weights.get(slot.param, row[:0]), row])
                if read.summed is not None:
                    m = read.constant(b)[t].cpu()
                    means[read.reader] = torch.cat([means.get(read.reader, m[:0]), m])
            yield MergeChannel(self.space, channel, weights, means), self.space

    def cost(self, model: CostModel) -> Cost:
        """Of one channel less."""
        return model.marginal(self.space, model.widths, -1)


class _Read:
    """One slot of a weight that reads the space: what it reads, and the least-squares problems of its combinations.

    What is tied to a table that writes the space stays as it is, and rebuilds nothing; nor do weights behind which each channel
    is multiplied by a number of its own, as by a rotary position.

    Moments and equations are float64; C channels of I entries each, T of them to be rebuilt from K sources.
    """

    def __init__(self, graph: Graph, sites: Sequence[ReadSite], channels: torch.Tensor, held: bool) -> None:
        self.held = held
        self.slot, self.beside = sites[0].slot, sites[0].beside
        self.reader = sites[0].edge.reader
        self.stretches: list[tuple[Edge, Band]] = [(site.edge, band) for site in sites for band in site.bands]
        self.summed = summed_weight(graph, sites[0])
        self.written = written_axis(graph, self.reader) if self.summed is not None else 0
        self.channels = channels
        size, inner = self.stretches[0][1].size, self.slot.inner
        zeros = graph.params[self.slot.param].data.new_zeros
        self.first, self.second = (zeros(size, n, dtype=torch.float64) for n in (inner, size))
        self.count = 0
        self.equations: torch.Tensor | float = 0.0
        self.equation_count = 0

    def edges(self) -> list[Edge]:
        """Edges whose gradients are needed."""
        own = [edge for edge, _ in self.stretches]
        return own if self.summed is None else [*own, Edge(self.reader)]

    def add_moments(self, batch: Collected) -> None:
        """Add what is read to the moments."""
        for edge, band in self.stretches:
            a = entries(batch.read(edge), band, 1)
            first, second = batch.total(a.sum((0, 3)), torch.einsum("ncip,ndip->cd", a, a))
            self.first += first
            self.second += second
            self.count += batch.samples * a.shape[3]

    def mean(self) -> torch.Tensor:
        """Mean of every entry, [C, I]; 0 where the reader cannot keep a constant."""
        return self.first / max(self.count, 1) * (self.summed is not None)

    def covariance(self) -> torch.Tensor:
        """Covariance of the channels, [C, C]; second moments where the reader cannot keep a constant."""
        mean = self.mean()
        return self.second / max(self.count, 1) - mean @ mean.T

    def partial_correlations(self, kept: torch.Tensor) -> torch.Tensor:
        """Square of the partial correlation of each channel with those that it may be rebuilt from, `kept` [T, C]; -inf for others.

        From the inverse P of the covariance of a channel c with its own: P_cj^2 / (P_cc P_jj) for each j of them; within 0
        and 1 where the covariance is singular but for rounding, which may make it anything.
        """
        covariance = damped(self.covariance(), MERGE_RIDGE)
        result = torch.full_like(covariance[self.channels], -torch.inf)
        inverse, shared = torch.linalg.inv(covariance), int(kept[0].sum()) + 1 == len(covariance)
        for t, channel in enumerate(self.channels.tolist()):
            own = kept[t].nonzero().flatten().to(covariance.device)
            place, rest = channel, own
            if not shared:
                index = torch.cat([own, own.new_tensor([channel])])
                inverse = torch.linalg.inv(covariance[index][:, index])
                place, rest = len(own), torch.arange(len(own)).to(own)
            found = inverse[place, rest].square() / (inverse[place, place] * inverse.diagonal()[rest])
            result[t, own] = found.nan_to_num(0.0).clamp(0.0, 1.0)
        return result

    def add_equations(self, batch: Collected, sources: torch.Tensor) -> None:
        """Add the equations of a batch, one for each sample and curvature factor."""
        columns = torch.cat([self.channels.to(sources).unsqueeze(1), sources], 1)
        mean = self.mean()
        rows: torch.Tensor | float = 0.0
        for edge, band in self.stretches:
            a = entries(batch.read(edge), band, 1)
            a = a - mean.to(a).unsqueeze(2)
            v = entries(batch.factors[edge], band, 2)[:, :, self.channels]
            rows = rows + torch.stack([(v * a[:, column]).flatten(3).sum(3) for column in columns.T], 3)
        assert isinstance(rows, torch.Tensor)
        (equations,) = batch.total(torch.einsum("rntk,rntl->tkl", rows, rows))
        self.equations = self.equations + equations.double()
        self.equation_count += rows.shape[0] * batch.samples

    def combination(self, sources: torch.Tensor | None) -> torch.Tensor:
        """What is added to what is read in place of each channel, [T, C]: b of the others, and -1 of the channel itself."""
        size, rows = len(self.second), torch.arange(len(self.channels))
        b = self.second.new_zeros(len(rows), size)
        if sources is not None and isinstance(self.equations, torch.Tensor) and not self.held:
            columns = torch.cat([self.channels.to(sources).unsqueeze(1), sources], 1)
            prior = self.covariance()[columns.unsqueeze(2), columns.unsqueeze(1)]
            share = (
                PRIOR
                * sources.shape[1]
                / self.equation_count
                * mean_eigenvalue(self.equations)
                / mean_eigenvalue(prior)
            )
            normal = damped(self.equations + share * prior, MERGE_RIDGE)
            solution: torch.Tensor = torch.linalg.solve(normal[:, 1:, 1:], normal[:, 1:, 0])
            b[rows.unsqueeze(1), sources.cpu()] = solution
        b[rows, self.channels] = -1.0
        return b

    def constant(self, b: torch.Tensor) -> torch.Tensor:
        """What the means leave to be added for each channel, [T, I]."""
        constant: torch.Tensor = -b @ self.mean()
        return constant
