"""A second look: the true loss of those candidates of which a quadratic model of it knows least.

Removing a channel of a residual stream changes much at once, and its predicted change may be wrong by a third either way,
whatever the curvature, and that of a whole head by half. How far is measured: the candidate is applied, and its actual change on
some judge samples compared with the predicted change on the same samples. What is to be expected on others follows by the
regression estimator of survey sampling (Cochran, *Sampling Techniques*, chapter 7): the mean of the actual changes, moved by how
far the model's means on the two sets of samples differ, times the slope of actual on predicted changes of samples. Where the model
is good the samples hardly matter; where it explains nothing it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils.data import Subset

from gngraph.analysis.channels import ChannelSpaces
from gngraph.curvature import predicted_change
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism
from gngraph.running.evaluation import sample_losses
from gngraph.running.problem import Problem
from gngraph.running.together import Together

SAMPLES = 512
"""Judge samples that are looked at (docs/results.md#second-look)."""


LOOKS = 32
"""Candidates that are looked at where single predictions are shown (docs/results.md#second-look)."""


@dataclass(frozen=True)
class SecondLook:
    """What N samples showed of a change: how actual changes of their losses go with those that the model predicts.

    Attributes:
        actual, predicted: their means.
        slope: of actual on predicted changes of samples.
        left: variance of what the line leaves of the actual changes.
        count: N.
    """

    actual: float
    predicted: float
    slope: float
    left: float
    count: int

    @classmethod
    def of(cls, actual: torch.Tensor, predicted: torch.Tensor) -> SecondLook:
        """From changes of samples, [N] both."""
        actual, predicted = actual.double(), predicted.double()
        centred = predicted - predicted.mean()
        slope = float((centred * actual).sum() / centred.square().sum().clamp(min=1e-30))
        rest = actual - actual.mean() - slope * centred
        left = float(rest.square().sum()) / max(1, len(rest) - 2)
        return cls(float(actual.mean()), float(predicted.mean()), slope, left, len(rest))

    def expected(self, predicted: float) -> float:
        """The mean change on other samples, of which the model predicts `predicted`."""
        return self.actual + self.slope * (predicted - self.predicted)

    def error(self, others: int | None = None) -> float:
        """Standard error of what is expected, of the mean over all samples or over so many others."""
        return math.sqrt(self.left * (1 / self.count + (0.0 if others is None else 1 / others)))


def looks_at(
    graph: Graph,
    spaces: ChannelSpaces,
    problem: Problem,
    candidates: Iterable[tuple[Morphism, torch.Tensor, torch.Tensor]],
) -> list[SecondLook]:
    """A look at each candidate.

    Cost: a forward pass over `SAMPLES` samples for each candidate, of what lies behind the change, and a whole one.

    Args:
        graph: the network.
        spaces: of `graph`.
        problem: whose judge split is looked at.
        candidates: morphisms, each with its first- and second-order effects on the judge split, s [N] and q [R, N].
    """
    judge = problem.splits.judge
    # the order of a split is random, and each stretch of it has every class
    looked = Subset(judge, range(min(SAMPLES, len(judge))))
    candidates = list(candidates)
    changed = [morph(graph, spaces, [morphism]).graph for morphism, _, _ in candidates]
    before, *after = sample_losses(Together([graph, *changed], problem.runner.function), problem, looked)
    return [
        SecondLook.of(losses - before, predicted_change(s[: len(looked)], q[:, : len(looked)]))
        for (_, s, q), losses in zip(candidates, after, strict=True)
    ]
