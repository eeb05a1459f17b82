"""Factorisations as candidates: a layer of a lower rank, or a separable one, and what the loss makes of the difference.

What the two factors give is computed exactly; what lies behind the layer is linearised.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gngraph.analysis.cost import Cost, CostModel, cost
from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.factorisation import factorise, not_factorised, rank_of
from gngraph.rewrite.layers import called, layers_of
from gngraph.rewrite.structure import Factorise
from gngraph.scoring.collect import Collected
from gngraph.scoring.factors import low_rank, separable
from gngraph.scoring.layer_moments import VectorSums, patches, sums
from gngraph.scoring.proposer import Context
from gngraph.scoring.sites import Edge

RANK_SHARES = (0.75, 0.5, 0.25)
"""Costs of the ranks that are proposed of a layer, as shares of its own."""

PATCH = 4608
"""Most entries of a row of a convolution that is proposed to be separable: their second moment is held, in float64."""


def propose_low_ranks(context: Context) -> Iterator[Factorisation]:
    """For every layer that can have them, the ranks that cost some shares of it."""
    for layer in _layers(context, "low-rank"):
        weight = context.graph.params[context.graph.nodes[layer].params["weight"]].data
        each = weight.shape[0] + weight[0].numel()
        ranks = dict.fromkeys(max(1, int(share * weight.numel() / each)) for share in RANK_SHARES)
        fit = _LowRankFit(context.graph, layer)
        for first, rank in enumerate(rank for rank in ranks if rank < rank_of(context.graph, layer)):
            yield Factorisation(context, fit, rank, learns=first == 0)


def propose_separable(context: Context) -> Iterator[Factorisation]:
    """For every convolution that can be, the separable one."""
    for layer in _layers(context, "separable"):
        weight = context.graph.params[context.graph.nodes[layer].params["weight"]].data
        if weight[0].numel() > PATCH:
            context.notes.append(
                f"'{called(context.graph, layer)}' is not proposed to be separable: its rows are too long"
            )
            continue
        yield Factorisation(context, _SeparableFit(context.graph, layer), weight.shape[1], learns=True)


def _layers(context: Context, form: str) -> Iterator[str]:
    """Layers that may be factorised, by themselves and by what the user lets change."""
    held = context.scope.held(context.spaces)
    for layer in layers_of(context.graph):
        if not_factorised(context.graph, layer, form) is None and held.keys().isdisjoint(_spaces(context, layer)):
            yield layer


def _spaces(context: Context, layer: str) -> set[str]:
    """The spaces that a layer writes and reads."""
    weight = context.graph.nodes[layer].params["weight"]
    return {name for axis in (0, 1) for name, _ in context.spaces.axes.get((weight, axis), ())}


class _LowRankFit:
    """Moments of what a layer gives, and of the curvature there, from which every rank follows."""

    def __init__(self, graph: Graph, layer: str) -> None:
        self.graph, self.layer = graph, layer
        self.axis = lookup(graph.nodes[layer].op).channel_axis
        self.given, self.curvature = VectorSums(), VectorSums()

    def add(self, batch: Collected) -> None:
        """Add a batch."""
        self.given.add(*_total(batch, batch.values[self.layer].movedim(self.axis, 0).flatten(1)))
        factors = batch.factors[Edge(self.layer)].flatten(0, 1)
        self.curvature.add(*_total(batch, factors.movedim(self.axis, 0).flatten(1)))

    def morphism(self, rank: int) -> Factorise:
        """The layer of a rank, as it is now; with no batch all that it may read counts alike."""
        if not self.given.count:
            return low_rank(self.graph, self.layer, rank, None)
        metric = self.curvature.moments().about_zero()
        return low_rank(self.graph, self.layer, rank, self.given.moments(), metric)


class _SeparableFit:
    """Moments of what a convolution multiplies by its rows."""

    def __init__(self, graph: Graph, layer: str) -> None:
        self.graph, self.layer = graph, layer
        self.weight = graph.params[graph.nodes[layer].params["weight"]].data
        self.read = VectorSums()

    def add(self, batch: Collected) -> None:
        """Add a batch."""
        node = self.graph.nodes[self.layer]
        self.read.add(*_total(batch, patches(node, batch.values[node.inputs[0]], self.weight)))

    def morphism(self, rank: int) -> Factorise:
        """The separable convolution, as it is now; with no batch all that it may read counts alike."""
        return separable(self.graph, self.layer, self.read.moments() if self.read.count else None)


class Factorisation:
    """One layer as two of some rank, or separable.

    With y what the layer gives and y' what the two give, both exact, a sample's loss changes by <g, y' - y> in first order, and
    along every factor f of the curvature by <f, y' - y>.

    Args:
        context: what proposers are made from.
        fit: learns from samples what the factors are, for all candidates of one layer.
        rank: channels between the two.
        learns: whether this candidate is the one that feeds the fit.
    """

    def __init__(self, context: Context, fit: _LowRankFit | _SeparableFit, rank: int, *, learns: bool) -> None:
        self.graph, self.fit, self.rank, self.learns = context.graph, fit, rank, learns
        self._held: tuple[Factorise, Graph] | None = None

    def edges(self) -> list[Edge]:
        """What the layer gives, whoever reads it."""
        return [Edge(self.fit.layer)]

    def learn(self, batch: Collected) -> None:
        """Add a batch to the moments."""
        self._held = None
        if self.learns:
            with torch.no_grad():
                self.fit.add(batch)

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect on every sample: s [N, 1], q [R, N, 1]."""
        edge = self.edges()[0]
        change = self._value(batch) - batch.values[edge.value]
        s = (batch.gradient[edge] * change).flatten(1).sum(1, keepdim=True)
        return s, (batch.factors[edge] * change).flatten(2).sum(2, keepdim=True)

    def morphisms(self) -> Iterator[tuple[Factorise, str]]:
        """The one factorisation."""
        yield self._found()[0], called(self.graph, self.fit.layer)

    def cost(self, model: CostModel) -> Cost:
        """Of the two layers less that of the one, at the graph's widths."""
        return cost(self._found()[1]) - cost(self.graph)

    def _found(self) -> tuple[Factorise, Graph]:
        """The factorisation as it is now, and the graph with it."""
        if self._held is None:
            morphism = self.fit.morphism(self.rank)
            self._held = morphism, factorise(self.graph, morphism)
        return self._held

    def _value(self, batch: Collected) -> torch.Tensor:
        """What the two layers give."""
        graph = self._found()[1]
        value: torch.Tensor = batch.values[self.graph.nodes[self.fit.layer].inputs[0]]
        for layer in (node for name, node in graph.nodes.items() if name not in self.graph.nodes):
            apply = lookup(layer.op).apply
            assert apply is not None
            value = apply(layer, value, graph.params[layer.params["weight"]].data)
            if "bias" in layer.params:
                axis = lookup(layer.op).channel_axis % value.dim()
                value = value + graph.params[layer.params["bias"]].data.view(-1, *[1] * (value.dim() - 1 - axis))
        return value


def _total(batch: Collected, vectors: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Sums over what all processes have of a batch, on the CPU."""
    count, first, second = sums(vectors)
    every, first, second = batch.total(torch.tensor(float(count), dtype=torch.float64), first, second)
    return round(float(every)), first.cpu(), second.cpu()
