"""A second look: the true loss of those candidates of which a quadratic model of it knows least.

Removing a channel of a residual stream changes much at once, and its predicted change may be wrong by a third either way,
whatever the curvature. How far is measured: the candidate is applied, and its actual change on some judge samples compared
with the predicted change on the same samples. The difference of the two has far less noise than either, and holds on others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def missing_change(
    graph: Graph,
    spaces: ChannelSpaces,
    problem: Problem,
    candidates: Iterable[tuple[Morphism, torch.Tensor, torch.Tensor]],
) -> list[tuple[float, float]]:
    """What is missing from the predicted change of each candidate, and its standard error over the samples.

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
    found = []
    for (_, s, q), losses in zip(candidates, after, strict=True):
        missing = losses - before - predicted_change(s[: len(looked)], q[:, : len(looked)])
        found.append((float(missing.mean()), float(missing.std()) / math.sqrt(len(looked))))
    return found
