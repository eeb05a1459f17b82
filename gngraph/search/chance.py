"""Whether a network has learned anything: how it is changed is decided by what its loss does, which else is noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gngraph.curvature.outputs import leaves, replaced
from gngraph.data.inputs import SampleInputs
from gngraph.ir import Graph
from gngraph.running.constant import constant_loss
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.running.sparing import sparing
from gngraph.training.perturbation import perturbed

LEAST = 0.01
"""Share of the loss that the right targets must save, above what they save where nothing is learned (docs/results.md#chance)."""

RIVALS, LUCK = 8, 2.0
"""What is taken for trained must gain so many times what the luckiest of so many networks with new weights does: an untrained one
fits the targets as often as it fits their opposite (docs/results.md#chance)."""


@dataclass(frozen=True)
class Knowledge:
    """What a network knows of its targets.

    Attributes:
        own: mean loss on the judge split.
        exchanged: the same with targets exchanged among the samples of a batch.
        alike: whether all targets are the same.
        floor: smallest loss of a sample where that is below 0, else 0: the loss is counted from there.
    """

    own: float
    exchanged: float
    alike: bool
    floor: float

    @property
    def chance(self) -> bool:
        """Whether the targets of other samples fit the outputs about as well; not where a loss is not finite."""
        return math.isfinite(self.own) and self.own >= self.exchanged - LEAST * abs(self.exchanged)

    @property
    def gain(self) -> float:
        """What the right targets save, in units of the loss that is left; 0 where nothing can be said."""
        saved = self.exchanged - self.own
        return saved / max(self.own - self.floor, 1e-12) if math.isfinite(saved) and not self.alike else 0.0


@sparing("an evaluation")
@torch.no_grad()
def known(graph: Graph, problem: Problem) -> Knowledge:
    """What a network knows of its targets: its loss is compared with that of the same outputs for targets of other samples.

    That asks nothing of the loss, and holds for classes, numbers and maps of either. Cost: a forward pass over the judge split.
    """
    runner, count = problem.runner, len(problem.splits.judge)

    def measured(x: SampleInputs, y: Any) -> tuple[float, float, bool, float]:
        outputs = runner.outputs(graph, x)
        rolled = {path: target.roll(1, 0) for path, target in leaves(y).items()}
        same = all(torch.equal(rolled[path], target) for path, target in leaves(y).items())
        losses = problem.loss_fn.per_sample(outputs, y).double()
        others = problem.loss_fn.per_sample(outputs, replaced(y, rolled)).double()
        return float(losses.sum()), float(others.sum()), same, float(losses.min())

    own, exchanged, alike, floor = 0.0, 0.0, True, 0.0
    size = max(2, runner.batch_size)
    for loss, other, same, least in runner.over(problem.splits.judge, graph, measured, size=size):
        own, exchanged = own + loss, exchanged + other
        alike, floor = alike and same, min(floor, least)
    return Knowledge(own / count, exchanged / count, alike, floor)


def is_trained(graph: Graph, problem: Problem, found: Knowledge) -> bool:
    """Whether a network knows its targets too well for the luck of its initial weights.

    Args:
        graph: the network as it is given.
        problem: its data and loss.
        found: what it knows, from `known`.

    Cost: `RIVALS` forward passes over the judge split, where it does better than chance.
    """
    return not found.chance and found.gain > LUCK * luck(graph, problem)


MAY_KNOW = (
    "nothing says that the network was not trained on the samples that changes are judged by: if it was, it knows them better than "
    "others, which lose more than is predicted; name samples that it has not seen (--unseen; in Python Problem(unseen=...))"
)
"""What to tell where `may_know` is true."""


def may_know(graph: Graph, problem: Problem) -> bool:
    """Whether a network that is given may know the samples that it is to be judged by, for it was trained, and nobody says on what.

    Cost: a forward pass over the judge split, and where the network does better than chance `RIVALS` more.
    """
    return untold(problem) and is_trained(graph, problem, known(graph, problem))


def untold(problem: Problem) -> bool:
    """Whether nobody says that a network which comes trained has not seen the samples that it is to be judged by."""
    return problem.unseen is None and problem.divisible


def luck(graph: Graph, problem: Problem) -> float:
    """The largest gain, or loss, by right targets among networks of the architecture with new weights of the same sizes.

    Weights that cannot be drawn anew stay; where all are such, there is no luck to compare with, and it is 0.
    """
    gains = [0.0]
    for draw in range(1, RIVALS + 1):
        other = perturbed(graph, 1.0, mixed(problem.seed, -draw))
        if any(not torch.equal(other.params[name].data, p.data) for name, p in graph.params.items()):
            gains.append(abs(known(other, problem).gain))
    return max(gains)


def no_better_than_chance(graph: Graph, problem: Problem) -> str | None:
    """What to tell where a network knows its targets no better than those of other samples; None where it does.

    A network that was wrecked may still tell samples apart, at a loss above that of the best constant output: what becomes of its
    loss is no better a guide.

    Cost: a forward pass over the judge split, and what `constant_loss` takes.
    """
    found = known(graph, problem)
    if found.alike:
        return (
            "the samples that changes are judged by have all the same target, so that there is nothing to learn from them: look "
            "at the data, which may be of one class"
        )
    if not found.chance:
        constant = constant_loss(graph, problem)
        if found.own < constant or not math.isfinite(found.own):
            return None
        return (
            f"the loss of the network, {found.own:.4g}, is above that of the best constant output, {constant:.4g}, so that what is "
            f"worth growing is guessed: train it longer or at another learning rate"
        )
    return (
        f"the network knows its targets no better than by chance (loss {found.own:.4g}, with targets exchanged "
        f"{found.exchanged:.4g}), so that what is worth growing is guessed: train it longer or at another learning rate, start "
        f"from a wider one, or, if it is trained already, give data scaled as in its training"
    )
