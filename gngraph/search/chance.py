"""Whether a network has learned anything: how it is changed is decided by what its loss does, which else is noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gngraph.curvature.outputs import leaves, replaced
from gngraph.ir import Graph
from gngraph.running.problem import Problem

LEAST = 0.01
"""Share of the loss that the right targets must save, above what they save where nothing is learned (docs/results.md#chance)."""


KNOWS = 0.9
"""Share of the loss with targets exchanged, below which a network is taken for a trained one (docs/results.md#chance)."""


@dataclass(frozen=True)
class Knowledge:
    """What a network knows of its targets.

    Attributes:
        own: mean loss on the judge split.
        exchanged: the same with targets exchanged among the samples of a batch.
        alike: whether all targets are the same.
    """

    own: float
    exchanged: float
    alike: bool

    @property
    def trained(self) -> bool:
        """Whether it knows too much to have been made anew: fresh networks lie within 6 % of chance."""
        return not self.alike and self.own < KNOWS * self.exchanged


@torch.no_grad()
def known(graph: Graph, problem: Problem) -> Knowledge:
    """What a network knows of its targets: its loss is compared with that of the same outputs for targets of other samples.

    That asks nothing of the loss, and holds for classes, numbers and maps of either. Cost: a forward pass over the judge split.
    """
    runner, count = problem.runner, len(problem.splits.judge)
    own, exchanged, alike = 0.0, 0.0, True
    for x, y in runner.read(problem.splits.judge, graph, size=max(2, problem.batch_size)):
        outputs = runner.outputs(graph, x)
        rolled = {path: target.roll(1, 0) for path, target in leaves(y).items()}
        alike = alike and all(torch.equal(rolled[path], target) for path, target in leaves(y).items())
        others = replaced(y, rolled)
        own += float(problem.loss_fn.per_sample(outputs, y).double().sum())
        exchanged += float(problem.loss_fn.per_sample(outputs, others).double().sum())
    return Knowledge(own / count, exchanged / count, alike)


def no_better_than_chance(graph: Graph, problem: Problem) -> str | None:
    """What to tell where a network knows its targets no better than those of other samples; None where it does.

    Cost: a forward pass over the judge split.
    """
    found = known(graph, problem)
    if found.alike:
        return (
            "the samples that changes are judged by have all the same target, so that there is nothing to learn from them: look "
            "at the data, which may be of one class"
        )
    if not math.isfinite(found.own) or found.own < found.exchanged - LEAST * abs(found.exchanged):
        return None
    return (
        f"the network knows its targets no better than by chance (loss {found.own:.4g}, with targets exchanged "
        f"{found.exchanged:.4g}), so that what is worth growing is guessed: train it longer or at another learning rate, start "
        f"from a wider one, or, if it is trained already, give data scaled as in its training"
    )
