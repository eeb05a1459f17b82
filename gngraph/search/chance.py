"""Whether a network has learned anything: how it is changed is decided by what its loss does, which else is noise."""

from __future__ import annotations

import math

import torch

from gngraph.curvature.outputs import leaves, replaced
from gngraph.ir import Graph
from gngraph.running.problem import Problem

LEAST = 0.01
"""Share of the loss that the right targets must save, above what they save where nothing is learned (docs/results.md#chance)."""


@torch.no_grad()
def no_better_than_chance(graph: Graph, problem: Problem) -> str | None:
    """What to tell where a network knows its targets no better than those of other samples; None where it does.

    The mean loss on the judge split is compared with that of the same outputs for targets which are exchanged among the samples
    of a batch. That asks nothing of the loss, and holds for classes, numbers and maps of either.

    Cost: a forward pass over the judge split.
    """
    runner = problem.runner
    own, exchanged, alike = 0.0, 0.0, True
    for x, y in runner.read(problem.splits.judge, graph, size=max(2, problem.batch_size)):
        outputs = runner.outputs(graph, x)
        rolled = {path: target.roll(1, 0) for path, target in leaves(y).items()}
        alike = alike and all(torch.equal(rolled[path], target) for path, target in leaves(y).items())
        others = replaced(y, rolled)
        own += float(problem.loss_fn.per_sample(outputs, y).double().sum())
        exchanged += float(problem.loss_fn.per_sample(outputs, others).double().sum())
    if alike:
        return (
            "the samples that changes are judged by have all the same target, so that there is nothing to learn from them: look "
            "at the data, which may be of one class"
        )
    if not math.isfinite(own) or own < exchanged - LEAST * abs(exchanged):
        return None
    count = len(problem.splits.judge)
    return (
        f"the network knows its targets no better than by chance (loss {own / count:.4g}, with targets exchanged "
        f"{exchanged / count:.4g}), so that what is worth growing is guessed: train it longer or at another learning rate, start "
        f"from a wider one, or, if it is trained already, give data scaled as in its training"
    )
