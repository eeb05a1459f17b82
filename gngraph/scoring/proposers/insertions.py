"""Insertions as candidates: an inserted layer with the first step that the loss asks of it.

The learn split is spent in two stages, each on samples of its own: which direction, and how long a step along it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from gngraph.analysis.cost import Cost, CostModel, cost
from gngraph.analysis.topology import cut_points
from gngraph.ops import lookup
from gngraph.rewrite.insertion import Block, insert_layer, kinds_at
from gngraph.rewrite.morphism import InsertLayer
from gngraph.scoring.collect import Collected
from gngraph.scoring.damping import damped
from gngraph.scoring.proposer import Context
from gngraph.scoring.sites import Edge

INSERTION_SETTLED = 0.6
"""Share of the learn split at which the direction is settled."""


def propose_insertions(context: Context) -> Iterator[InsertionLearner]:
    """A plain layer and a residual block at every cut point, the first only where values cannot be negative."""
    points = cut_points(context.graph, context.spaces)
    if not points:
        context.notes.append("no layer is proposed: there is no value with channels that everything passes")
    held = context.scope.held(context.spaces)
    for point in points:
        if any(name in held for name, _, _ in context.spaces.layouts.get((point.value, point.axis), ())):
            continue
        for kind in kinds_at(point):
            yield InsertionLearner(context, Block.at(point, kind))


class InsertionLearner:
    """Learns the change D of a cut point's value a that a block makes when its last weight W takes a step u.

    A plain layer gives D = relu(a + u * a) - a, a residual block D = u * b with features b = relu(V * a), V random and
    fixed. The direction is that of one damped Newton step, u = -S^-1 G A^-1: G is the mean gradient by W, S the second
    moment of the curvature factors at a and A that of what W reads, over channels, all positions of the kernel being taken
    as independent (after Martens and Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*,
    2015, and Grosse and Martens for convolutions, 2016). The step's length minimises the model for a slope that is a standard
    error less steep than measured, but D is at most `trust` of a, in root mean square: what lies behind the cut point is
    linearised. A step that gains nothing for sure is 0, and leaves the block as it preserves the function.

    A batch costs one convolution and its weight gradient, then one convolution; a residual block one more each.
    """

    def __init__(self, context: Context, block: Block) -> None:
        self.graph, self.spaces, self.block = context.graph, context.spaces, block
        self.trust, self.samples = context.options.trust, context.samples
        self.border = context.settled(INSERTION_SETTLED)
        like = next(p.data for p in self.graph.params.values() if p.data.is_floating_point())
        start = block.weights(context.generator)
        self.fixed = {role: start[role].to(like) for role in block.roles[:-1]}
        self.direction = torch.zeros(block.shape).to(like)
        self._gradient = torch.zeros(block.shape).to(like)
        self._read, self._factor = (torch.zeros(block.point.width, block.point.width).to(like) for _ in range(2))
        self._seen, self._settled = 0, False
        self._slopes: list[torch.Tensor] = []
        self._curvature = self._moved = self._size = 0.0

    def edges(self) -> list[Edge]:
        """The cut point's value, whoever reads it."""
        return [Edge(self.block.point.value)]

    def morphisms(self) -> Iterator[tuple[InsertLayer, str]]:
        """The one insertion."""
        at = self.block.point.value
        learned = {role: weight.cpu() for role, weight in (*self.fixed.items(), (self.block.roles[-1], self.step()))}
        yield InsertLayer(at, self.block.kind, learned), self.graph.nodes[at].module or at

    def cost(self, model: CostModel) -> Cost:
        """Of the block at the graph's widths."""
        plain = InsertLayer(self.block.point.value, self.block.kind)
        return cost(insert_layer(self.graph, self.spaces, plain)) - cost(self.graph)

    def learn(self, batch: Collected) -> None:
        """Add a batch to the stage at hand; later epochs, which bring the samples of both again, serve none."""
        before, self._seen = self._seen, self._seen + batch.samples
        if before < self.border:
            self._add(batch)
        elif before < self.samples:
            if not self._settled:
                self._settle()
            with torch.no_grad():
                a, edge = batch.values[self.block.point.value], self.edges()[0]
                change = self._change(a, self.direction)
                self._slopes.append(batch.ranks.rows((batch.gradient[edge] * change).flatten(1).sum(1)))
                curvature = (batch.factors[edge] * change).flatten(2).sum(2).square().sum()
                curvature, moved, size = batch.total(curvature, change.square().sum(), a.square().sum())
                self._curvature += float(curvature)
                self._moved += float(moved)
                self._size += float(size)

    def step(self) -> torch.Tensor:
        """What the last weight changes by, of its shape."""
        if not self._slopes or self._curvature <= 0.0:
            return torch.zeros_like(self.direction)
        slopes = torch.cat(self._slopes)
        sure = -float(slopes.mean() + slopes.std() / math.sqrt(len(slopes))) * len(slopes)
        most = self.trust * math.sqrt(self._size / self._moved)
        return self.direction * max(0.0, min(sure / self._curvature, most))

    def effect(self, batch: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """First- and second-order effect on every sample: s [N, 1], q [R, N, 1]."""
        edge = self.edges()[0]
        change = self._change(batch.values[edge.value], self.step())
        s = (batch.gradient[edge] * change).flatten(1).sum(1, keepdim=True)
        q = (batch.factors[edge] * change).flatten(2).sum(2, keepdim=True)
        return s, q

    def _features(self, a: torch.Tensor) -> torch.Tensor:
        """What the last weight reads."""
        return F.relu(self._apply(a, self.fixed["inner.weight"])) if self.fixed else a

    def _change(self, a: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        change = self._apply(self._features(a), step)
        return change if self.fixed else F.relu(a + change) - a

    def _apply(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        apply = lookup(self.block.layer.op).apply
        assert apply is not None
        return apply(self.block.layer, x, weight)

    def _add(self, batch: Collected) -> None:
        edge = self.edges()[0]
        with torch.no_grad():
            read = self._features(batch.values[edge.value])
        weight = torch.zeros_like(self.direction).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self._apply(read, weight), weight, batch.gradient[edge])
        factor = self._moment(batch.factors[edge].flatten(0, 1))
        gradient, moment, factor = batch.total(gradient, self._moment(read), factor)
        self._gradient += gradient
        self._read += moment
        self._factor += factor

    def _moment(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over samples and positions of the outer product of a value's channels."""
        rows = value.movedim(self.block.point.axis, 0).flatten(1)
        return rows @ rows.T

    def _settle(self) -> None:
        """The direction, of a size at which the change of the value is a small part of it."""
        left = torch.linalg.solve(damped(self._factor), self._gradient.flatten(1)).view(self.block.shape)
        direction = -torch.linalg.solve(damped(self._read), left.transpose(0, 1).flatten(1))
        direction = direction.view(self.block.shape).transpose(0, 1)
        spread = float(direction.square().mean().sqrt())
        usual = math.sqrt(2.0 / math.prod(self.block.shape[1:]))
        self.direction = direction * (self.trust * usual / max(spread, 1e-30))
        self._settled = True
