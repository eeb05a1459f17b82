"""Which layers of a network that shrinks are better made low-rank than narrower: by the loss for the cost that either saves.

A low-rank layer keeps its widths, so that both ways save at different places. What channels lose for what they save is measured:
the network is narrowed to the budget by them alone. A layer that is predicted to lose less for what it saves becomes low-rank. Its
rank is a channel space then, which is narrowed with the others to what is left of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import predicted_change
from gngraph.ir import Graph
from gngraph.rewrite.graph_pass import PassResult
from gngraph.rewrite.morphing import morph
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.search.decision import Decider
from gngraph.search.strategy import GaussNewtonGrowth

LOW_RANK = "low-rank"
"""Kind of the candidates."""


@dataclass(frozen=True)
class LowRankFirst(GaussNewtonGrowth):
    """Layers become low-rank before the first round, where that is cheaper than channels are; rounds decide as its base does."""

    def factorised(self, graph: Graph, analyses: AnalysisManager, budget: Budget) -> tuple[PassResult, ...]:
        """What makes some layers of a network low-rank; nothing where none pays.

        Cost: a decision about the channels, with its analysis; an analysis of the factorisations.

        Args:
            graph: the network, trained.
            analyses: of the run.
            budget: that it is to come down to.

        Raises:
            BudgetError: channels alone do not reach the budget.
            PassError: no layer can be low-rank.
        """
        scores = analyses.get(GaussNewton(kinds=(LOW_RANK,)), graph)
        chosen = cheaper(scores, cost(graph), budget, self._price(graph, analyses, budget))
        morphisms = tuple(scores.candidates[i].morphism for i in chosen)
        if not morphisms:
            return ()
        return (PassResult.of(morph(graph, analyses.get(ChannelSpaces, graph), morphisms), morphisms),)

    def _price(self, graph: Graph, analyses: AnalysisManager, budget: Budget) -> float:
        """Loss of narrowing a network to a budget, for each share of the budget that is saved."""
        decider = Decider(analyses, budget)
        narrowed = decider.decide(self, decider.situation(self, graph, budget, 1), 1)
        return max(0.0, narrowed.judge.actual) / budget.share(cost(graph) - cost(narrowed.step.rewritten.graph))


def cheaper(scores: Scores, size: Cost, budget: Budget, price: float) -> list[int]:
    """The factorisations that together are predicted to lose less than a price for what they save, until the budget is reached.

    What loses least for what it saves comes first, be that a layer more or a lower rank of one.

    Args:
        scores: of factorisations alone.
        size: cost of the network.
        budget: that it is to come down to.
        price: loss for each share of the budget.
    """
    moments, candidates = scores.judge, scores.candidates
    saved = torch.tensor([-budget.share(candidate.cost) for candidate in candidates])
    s, q = moments.s.new_zeros(len(moments.s), 1), moments.q.new_zeros(*moments.q.shape[:2], 1)
    chosen, change = dict[str, int](), 0.0
    while not budget.allows(size):
        more, own_s, own_q = saved.clone(), moments.s.clone(), moments.q.clone()
        for i, held in ((i, chosen[c.site]) for i, c in enumerate(candidates) if c.site in chosen):
            more[i] -= saved[held]
            own_s[:, i] -= moments.s[:, held]
            own_q[:, :, i] -= moments.q[:, :, held]
        changes = predicted_change(s + own_s, q + own_q).mean(0)
        lost = torch.where(more > 0, (changes - change) / more.clamp(min=1e-12), torch.inf)
        best = int(lost.argmin()) if len(candidates) else -1
        if best < 0 or not float(lost[best]) < price:
            break
        site, gone = candidates[best].site, chosen.get(candidates[best].site)
        size = size + candidates[best].cost - (Cost(0, 0) if gone is None else candidates[gone].cost)
        s, q, change = s + own_s[:, [best]], q + own_q[:, :, [best]], float(changes[best])
        chosen[site] = best
    return list(chosen.values())
