"""A decision: what there is to know is found out, a plan made, applied, judged by the true loss, and refused where that broke."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from gngraph.analysis.cost import Budget
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import MapDataset
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism
from gngraph.running.evaluation import mean_loss
from gngraph.running.seeding import mixed
from gngraph.scoring.selection import Selection
from gngraph.search.lookahead import Lookahead
from gngraph.search.situation import Plan, Situation, unscored, unselected
from gngraph.search.step import Change, Step, apply, changes
from gngraph.search.strategy import Strategy
from gngraph.search.worth import WorthRecord, measured_worths

Timed = Callable[[str], AbstractContextManager[None]]
"""Surrounds a part of a decision, one of "analyse", "select", "rewrite", "measure"."""


def untimed(stage: str) -> AbstractContextManager[None]:
    """Nothing is told of the parts."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Decision:
    """What a plan came to.

    Attributes:
        selection: the candidates that were chosen.
        step: the rewrite that stands.
        learned: the learned morphisms that were tried; all of them are in the step, or none.
        judge, report: what was predicted and what the loss did, on the two splits (`gngraph.search.step`).
        after: mean loss on the report split after the step.
        refused: why they are not in the step; None where they are.
    """

    selection: Selection
    step: Step
    learned: tuple[Morphism, ...]
    judge: Change
    report: Change
    after: float
    refused: str | None


class Decider:
    """Makes the decisions of a run, or of a user's own training.

    Args:
        analyses: of the run.
        budget: what the whole run may use.
        stage: surrounds the parts.
        worths: of the decisions so far, see `WorthRecord`.
    """

    def __init__(
        self,
        analyses: AnalysisManager,
        budget: Budget,
        stage: Timed = untimed,
        worths: dict[str, float] | None = None,
    ) -> None:
        self._analyses = analyses
        self._problem = analyses.problem
        self._budget = budget
        self._stage = stage
        self._worths = WorthRecord(worths)

    def situation(self, strategy: Strategy | Lookahead, graph: Graph, target: Budget, number: int) -> Situation:
        """What a decision rests on: the analysis is run.

        Args:
            strategy: says what it asks to know.
            graph: the network, trained.
            target: what this decision may use.
            number: of the decision, from 1; with the seed it decides what is random.
        """
        with self._stage("analyse"):
            scores = self._analyses.get(strategy.analysis, graph) if strategy.analysis else unscored()
            measured = measured_worths(graph, self._analyses, scores) if strategy.measures else {}
            worths = self._worths.seen(measured)
        generator = torch.Generator().manual_seed(mixed(self._problem.seed, -number))
        return Situation(graph, self._analyses, scores, worths, target, self._budget, generator)

    def decide(self, strategy: Strategy, situation: Situation, number: int) -> Decision:
        """The rewrite that a strategy wants; without its learned morphisms where the judge loss rises beyond what was predicted.

        Args:
            strategy: how it decides.
            situation: from `situation`.
            number: see there.

        Raises:
            BudgetError: the result would exceed the budget, which would be a defect of the strategy.
        """
        with self._stage("select"):
            selection = strategy.learned(situation)
            wish = strategy.plan(situation, selection)
        step = self._applied(situation, wish, number)
        with self._stage("measure"):
            judge, report = changes(situation.graph, step.rewritten.graph, self._problem, situation.scores, selection)
        model, refused, after = situation.model, None, report.after
        if wish.learned and judge.broken and situation.target.allows(model.of(model.widths)):
            refused = f"the judge loss changed by {judge.actual:+.4g} where {judge.predicted:+.4g} was predicted"
            step = self._applied(situation, strategy.plan(situation, unselected(situation)), number)
            after = self.loss(step.rewritten.graph, self._problem.splits.report)
        return Decision(selection, step, wish.learned, judge, report, after, refused)

    def loss(self, graph: Graph, split: MapDataset) -> float:
        """Mean loss of a network on a split."""
        with self._stage("measure"):
            return mean_loss(graph, self._problem, split)

    def _applied(self, situation: Situation, wish: Plan, number: int) -> Step:
        with self._stage("rewrite"):
            generator = torch.Generator().manual_seed(mixed(self._problem.seed, number))
            return apply(situation.graph, situation.spaces, wish, self._budget, generator)
