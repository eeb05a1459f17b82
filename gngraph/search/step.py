"""One growth step: what the analysis learned is tried, kept or refused, and the rest of the budget filled exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.curvature import predicted_change
from gngraph.errors import BudgetError
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism
from gngraph.rewrite.surgery import Rewritten
from gngraph.scoring.gauss_newton import MODEL_ERROR, Moments
from gngraph.search.situation import Plan

SIGMAS = 2.0
"""Standard errors on either side of a predicted change that its interval covers."""

NEGLIGIBLE = 1e-3
"""Share of the loss by which it may rise unpredicted: noise of a few samples, not worth refusing a round for."""


@dataclass(frozen=True)
class Change:
    """Predicted and actual change of the mean loss on one split, for the learned morphisms of a round.

    Attributes:
        predicted: by the quadratic model; 0 for exact morphisms alone.
        error: standard error of `predicted` over the samples.
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
    index = list(chosen)
    first = moments.s[:, index].sum(1)
    changes: torch.Tensor = predicted_change(first, moments.q[:, :, index].sum(2))
    of_samples = float(changes.std()) / math.sqrt(len(changes))
    return math.hypot(of_samples, MODEL_ERROR * float((changes - first).mean()))
