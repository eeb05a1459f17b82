"""`ChannelFinder`: what every way of finding new channels has in common, whatever it takes for their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from gngraph.analysis.channels import Role
from gngraph.analysis.cost import Cost, CostModel
from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.morphism import NewChannel
from gngraph.scoring.collect import Collected
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.dense_layers import apply_layer
from gngraph.scoring.proposers.isolation import Isolation, entries_of, obstacle
from gngraph.scoring.sites import Edge, ReadSite, SplitSite, reads_by_space, split_sites


def propose_channels(context: Context, finder: type[ChannelFinder]) -> Iterator[ChannelFinder]:
    """One proposer for each layer that alone, or with others, writes a free space whose channels it keeps apart.

    Args:
        finder: how the channels are found.
    """
    graph, spaces = context.graph, context.spaces
    generator = torch.Generator().manual_seed(context.generator.initial_seed())
    reads = reads_by_space(graph, spaces)
    barred = {name: obstacle(graph, spaces, name) for name in reads}
    told = [f"no new channels are proposed for '{name}', for {reason}" for name, reason in barred.items() if reason]
    written = set()
    for site in split_sites(graph, spaces):
        layer, name = graph.nodes[site.node], site.space
        if barred[name] or site.slot.role is not Role.PRODUCE:
            continue
        where = f"no new channels are proposed for '{layer.module or layer.name}'"
        found = finder(context, site, reads[name], generator)
        if not lookup(layer.op).is_dense(layer) or len(site.rows(0)) != 1:
            told.append(f"{where}, for its channels own several rows, or read but some of its inputs")
        elif site.slot.param in {slot.param for slot in spaces[name].slots if slot.role is Role.CONSUME}:
            told.append(f"{where}, for it reads the space that it writes")
        elif not found.count:
            told.append(f"{where}: '{name}' is as wide as its linear chain")
        else:
            yield found
        written.add(name)
    told += [
        f"no new channels are proposed for '{name}', for no layer that is known writes it"
        for name, reason in barred.items()
        if not reason and name not in written
    ]
    context.notes.extend(told)


class ChannelFinder:
    """K new channels of one space that one of its layers writes; the other layers that write it give them zeros.

    Attributes:
        count: K.
        samples: samples to learn from, once; later epochs, which bring those of all stages again, serve nothing.
        weight: the layer's rows of the space.
        parents: the space's channels, the most strongly read first.

    Args:
        context: what all proposers are made from.
        site: the layer that writes the new channels.
        reads: all that reads the space.
        generator: of the CPU, for what starts at random.
    """

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        self.graph, self.spaces = context.graph, context.spaces
        self.site, self.reads = site, reads
        self.samples = context.samples
        self.generator = generator
        self.layer = self.graph.nodes[site.node]
        width = self.spaces[site.space].size
        self.weight = self.graph.params[site.slot.param].data.narrow(0, site.slot.offset, width)
        self.count = context.options.new
        strength = torch.stack([_strength(self.graph, read) for read in reads]).sum(0)
        self.parents = strength.argsort(descending=True, stable=True).tolist()
        self._seen = 0
        self._isolation: Isolation | None = None
        self._starts: list[dict[str, torch.Tensor]] = []

    def learn(self, batch: Collected) -> None:
        """Learn from one batch of the learn split."""
        raise NotImplementedError

    def out(self) -> list[torch.Tensor]:
        """Out-weights of the channels for each read site, [K, outputs, entries, *kernel]; none where nothing was learned."""
        raise NotImplementedError

    def starts(self) -> list[dict[str, torch.Tensor]]:
        """What each channel owns in the parameters that write or accompany the space, as `NewChannel.rows` has it."""
        raise NotImplementedError

    def edges(self) -> list[Edge]:
        """The values of the readers."""
        return [Edge(read.edge.reader) for read in self.reads]

    def cost(self, model: CostModel) -> Cost:
        """Of one channel more."""
        return model.marginal(self.site.space, model.widths)

    @property
    def isolation(self) -> Isolation:
        """The channels, by themselves."""
        if self._isolation is None:
            self._isolation = self.isolated()
        return self._isolation

    def isolated(self) -> Isolation:
        """An isolation of the channels as `starts` has them."""
        self._starts, space = self.starts(), self.site.space
        return Isolation(self.graph, self.spaces, space, [NewChannel(space, start) for start in self._starts])

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect of every channel on every sample: s [N, K], q [R, N, K]."""
        s, q = self.effects(batch, self.out())
        return s.sum(2), q.sum(3)

    def effects(self, batch: Collected, out: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Effects by read site: s [N, K, sites], q [R, N, K, sites]."""
        isolation = self.isolation
        s = batch.losses.new_zeros(len(batch.losses), self.count, len(self.reads))
        q = s.expand(len(batch.factors[self.edges()[0]]), *s.shape).clone()
        changed = isolation.run(batch.values) if out else {}
        for i, (site, u) in enumerate(zip(isolation.reads, out, strict=bool(out))):
            reader, edge = isolation.graph.nodes[site.edge.reader], Edge(site.edge.reader)
            for channel in range(self.count):
                delta = apply_layer(reader, isolation.read(site, changed, channel), u[channel])
                s[:, channel, i] = (batch.gradient[edge] * delta).flatten(1).sum(1)
                q[:, :, channel, i] = (batch.factors[edge] * delta).flatten(2).sum(2)
        return s, q

    def morphisms(self) -> Iterator[tuple[NewChannel, str]]:
        """The channels, in order."""
        isolation, out = self.isolation, self.out()
        for channel in range(self.count):
            settled = entries_of(isolation.graph, isolation.space, channel)
            rows = {**self._starts[channel], **{param: settled[param] for param in isolation.calibrated}}
            read: dict[str, torch.Tensor] = {}
            for site, u in zip(isolation.reads, out, strict=bool(out)):
                known = [read[site.slot.param]] if site.slot.param in read else []
                read[site.slot.param] = torch.cat([*known, u[channel].cpu()], 1)
            yield (
                NewChannel(self.site.space, {param: row.cpu() for param, row in rows.items()}, read),
                self.layer.module or self.layer.name,
            )

    def entries(self, parent: int) -> dict[str, torch.Tensor]:
        """Entries of a channel like `parent` that the site's layer alone writes."""
        space = self.spaces[self.site.space]
        start = entries_of(self.graph, space, parent)
        others = {node for node in space.nodes(Role.PRODUCE) if lookup(self.graph.nodes[node].op).apply is not None}
        for slot in space.slots:
            if slot.node in others - {self.site.node} and slot.role is not Role.CONSUME:
                start[slot.param] = torch.zeros_like(start[slot.param])
        return start


def _strength(graph: Graph, read: ReadSite) -> torch.Tensor:
    """Square of the norm of the weights that read each channel, [channels]."""
    band = read.bands[0]
    part = graph.params[read.slot.param].data.narrow(read.slot.axis, read.slot.offset, band.size * band.inner)
    strength: torch.Tensor = part.movedim(read.slot.axis, 0).reshape(band.size, -1).square().sum(1)
    return strength
