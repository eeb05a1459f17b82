"""One growth step: what the analysis learned is tried, kept or refused, and the rest of the budget filled exactly.

What a set of changes does is predicted twice. The model of the loss says it of the candidates, before anything is changed, and is
what a rise is held against. But it knows removals as single channels whose means are kept, where a round rebuilds them from all
that stay, and is quadratic, where half of a layer may go. So what is reported of a round is a second look: the network as it was
rewritten is run on the judge split, and what that shows is predicted for the report split, with the model to account for the
difference of the samples as far as it explains what they did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.errors import BudgetError
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism
from gngraph.rewrite.surgery import Rewritten
from gngraph.running.evaluation import sample_losses
from gngraph.running.problem import Problem
from gngraph.running.together import Together
from gngraph.scoring.gauss_newton import MODEL_ERROR, Moments, Scores
from gngraph.scoring.second_look import SecondLook
from gngraph.scoring.selection import Selection
from gngraph.search.situation import Plan

SIGMAS = 2.0
"""Standard errors on either side of a predicted change that its interval covers."""

NEGLIGIBLE = 1e-3
"""Share of the loss by which it may rise unpredicted: noise of a few samples, not worth refusing a round for."""


@dataclass(frozen=True)
class Change:
    """Predicted and actual change of the mean loss on one split, for a round's morphisms.

    Attributes:
        predicted: the change; 0 for exact morphisms alone, but for rounding.
        error: standard error of `predicted`.
        before, after: the measured losses.
    """

    predicted: float
    error: float
    before: float
    after: float

    @property
    def actual(self) -> float:
        """The measured change."""
        return self.after - self.before

    @property
    def beyond(self) -> bool:
        """Whether the actual change lies outside the interval of the predicted one, by more than noise."""
        return abs(self.actual - self.predicted) > max(NEGLIGIBLE * abs(self.before), SIGMAS * self.error)

    @property
    def broken(self) -> bool:
        """Whether the loss rose, and beyond what the prediction allows."""
        return self.actual > max(NEGLIGIBLE * self.before, self.predicted + SIGMAS * self.error)


@dataclass(frozen=True, eq=False)
class Step:
    """A rewrite that a round applies.

    Attributes:
        morphisms: what is applied, learned morphisms and exact new channels.
        rewritten: the result.
    """

    morphisms: tuple[Morphism, ...]
    rewritten: Rewritten


def apply(graph: Graph, spaces: ChannelSpaces, plan: Plan, budget: Budget, generator: torch.Generator) -> Step:
    """Rewrite `graph` by a plan.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        plan: learned and exact morphisms, numbered as before the rewrite.
        budget: that the result must keep to.
        generator: of the CPU, for exact new channels.

    Raises:
        BudgetError: the result would exceed `budget`, which would be a defect of the selection; `graph` is unchanged.
    """
    rewritten = morph(graph, spaces, plan.morphisms, generator)
    after = cost(rewritten.graph)
    if not budget.allows(after):
        raise BudgetError(
            f"the rewritten network has {after.params:,} parameters and {after.flops:,} FLOPs, beyond the budget of "
            f"{budget.text}; the round was not applied"
        )
    return Step(plan.morphisms, rewritten)


def standard_error(moments: Moments, chosen: Sequence[int]) -> float:
    """Standard error of the joint change that is predicted for a set of candidates: of the samples, and of the model."""
    first, changes = moments.s[:, list(chosen)].sum(1), moments.changes_of(chosen)
    of_samples = float(changes.std()) / math.sqrt(len(changes))
    return math.hypot(of_samples, MODEL_ERROR * float((changes - first).mean()))


def changes(
    graph: Graph, rewritten: Graph, problem: Problem, scores: Scores, selection: Selection
) -> tuple[Change, Change]:
    """What was predicted of a rewrite and what it did: on the judge split by the model, on the report split by the second look.

    Cost: two forward passes over each of the splits.

    Args:
        graph: before the rewrite.
        rewritten: after it.
        problem: has the splits.
        scores: what was known of the candidates.
        selection: those that were chosen.
    """
    networks, chosen = Together([graph, rewritten], problem.runner.function), selection.chosen
    splits = (problem.splits.judge, problem.splits.report)
    (judge, judge_after), (report, report_after) = (sample_losses(networks, problem, split) for split in splits)
    both = zip((scores.judge, scores.report), splits, strict=True)
    known = [moments.changes_of(chosen) if chosen else torch.zeros(len(split)) for moments, split in both]
    look = SecondLook.of(judge_after - judge, known[0])
    predicted, error = look.expected(float(known[1].double().mean())), look.error(len(report))
    model_error = standard_error(scores.judge, chosen)
    return (
        Change(selection.predicted, model_error, float(judge.mean()), float(judge_after.mean())),
        Change(predicted, error, float(report.mean()), float(report_after.mean())),
    )
