"""How deep a network is to be: layers are removed without which short trainings end lower.

Depth costs what width could have had, and a chain that is too deep for its width hardly learns. What a layer is worth cannot be
seen from the loss without it, since training makes up for most; but which depth is best shows early. What the constants rest on is
in docs/results.md#depth, and `tools/bench_depth.py` measures it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost, products_of, uses_of
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError, TrainingError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.graph_pass import PassResult
from gngraph.rewrite.layer_removal import RemovableLayer, removable_layer, removable_layers
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, RemoveLayer
from gngraph.running.batchnorm import settled
from gngraph.running.evaluation import mean_loss, mean_losses
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.scoring.layer_rebuilding import rebuilt_removal
from gngraph.search.trials import with_few
from gngraph.search.widths import allocated, worths
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer, batch_of

DEPTH = "depth"
"""Name of the search's stage, and of its entry in the round's record."""

LENGTH = 1 / 200
"""Samples that a trial is trained on, as a share of the run's: few, for what counts is that networks on trial are of full size."""

STEPS, MOST_OF_RUN = 32, 1 / 20
"""A trial has at least as many steps, if they are no larger share of the run: in a few steps on few samples no network learns."""

PARTS = 6
"""Depths that are told apart, at most: trials of nearer ones end within `MARGIN` of each other."""

TRIAL_BATCHES = 8
"""Batches from which BatchNorms of networks on trial take their statistics."""

MARGIN = 0.03
"""Share of the loss by which a shallower network must be better than a deeper one, which longer training makes more of."""


@dataclass(frozen=True)
class Trial:
    """A network that was trained briefly.

    Attributes:
        removed: how many layers it was without.
        params, flops: of the network, FLOPs of one sample.
        loss: on the judge split, after the training; infinite where that diverged.
    """

    removed: int
    params: int
    flops: int
    loss: float


@dataclass(frozen=True)
class Found:
    """What a search for the depth found.

    Attributes:
        order: the layers that can go, that first which is missed least.
        removed: those of them that go, the first ones.
        trials: by the number of layers that were gone.
        samples: that each of them was trained on, every one as often as it was seen.
    """

    order: tuple[RemovableLayer, ...]
    removed: tuple[RemovableLayer, ...]
    trials: tuple[Trial, ...]
    samples: int

    def record(self, graph: Graph) -> dict[str, Any]:
        """As JSON, a loss that is not finite as None; `graph` is the network that was searched."""
        names = [layer.title(graph) for layer in self.removed]
        tried = [asdict(trial) | {"loss": trial.loss if math.isfinite(trial.loss) else None} for trial in self.trials]
        return {"removed": names, "tried": tried, "samples": self.samples}


UNSEARCHED = Found((), (), (), 0)
"""Where all layers stay."""


def searched(graph: Graph, analyses: AnalysisManager, budget: Budget, options: TrainOptions, epochs: int) -> Found:
    """Which layers a network of a budget does better without.

    The layers are ranked by what the loss of the trained network rises without each alone, for what it would cost at the budget.
    One of every kind stays (`kinds_kept`). How many of the others go is found by trying: networks without the first k, at
    the budget and of widths that are worth the same, are trained from new initial weights. First a third and two thirds of the
    layers, then a sixth more and less than the best, until both of these are worse, and none where nothing that was tried is better
    than the deepest. Of those that are as good the deepest is taken. What is left has channels to grow in.

    Cost: 3 to 5 trainings, more where the best lies at an end: each `LENGTH` of the training of the whole, up to `MOST_OF_RUN` of
    it with few samples.

    Args:
        graph: the seed, trained a little.
        analyses: of the run.
        budget: of the run.
        options: how the run trains.
        epochs: of the run.
    """
    order = kinds_kept(graph, least_missed(graph, analyses, budget))
    depths = shallower(graph, [layer.value for layer in order], analyses)
    order, problem = order[: len(depths) - 1], analyses.problem
    length = trial_length(epochs, len(problem.train), batch_of(options, problem))
    training = TrialTraining(problem, options, length)
    trials: dict[int, Trial] = {}

    def attempt(count: int) -> float:
        if count not in trials:
            made = at_budget(depths[count], budget, analyses)
            size = cost(made)
            trials[count] = Trial(count, size.params, size.flops, training.loss(made))
        return trials[count].loss

    best = _least(attempt, len(order))
    tried = tuple(trials[count] for count in sorted(trials))
    return Found(tuple(order), tuple(order[:best]), tried, training.samples if order else 0)


def removed_in_turn(
    graph: Graph, analyses: AnalysisManager, layers: Sequence[RemovableLayer]
) -> tuple[PassResult, ...]:
    """The network without some layers, one after another; whatever read one rebuilds it on the learn split.

    Args:
        graph: with all of them.
        analyses: of the run.
        layers: that go, in this order.
    """
    steps: list[PassResult] = []
    for layer in layers:
        spaces = analyses.get(ChannelSpaces, graph)
        removal = rebuilt_removal(graph, analyses, removable_layer(graph, spaces, layer.value))
        steps.append(PassResult.of(morph(graph, spaces, [removal]), (removal,)))
        graph = steps[-1].graph
    return tuple(steps)


def without(graph: Graph, values: Sequence[str]) -> Graph:
    """The architecture without the layers that end at some values; nothing is learned of what reads them."""
    for value in values:
        spaces = ChannelSpaces.of(graph)
        layer = removable_layer(graph, spaces, value)
        shape = (spaces[layer.space].size, spaces[layer.source_space].size)
        graph = morph(graph, spaces, [RemoveLayer(value, {s.param: torch.zeros(shape) for s in layer.reads})]).graph
    return graph


def shallower(graph: Graph, values: Sequence[str], analyses: AnalysisManager) -> list[Graph]:
    """The architectures without the first 0, 1, 2, ... of the layers that end at some values.

    As many as there are with channels left that growth may add to.

    Args:
        graph: with all of them.
        values: where they end.
        analyses: of the run.
    """
    depths = list(accumulate(values, lambda deeper, value: without(deeper, [value]), initial=graph))
    while len(depths) > 1 and not analyses.get(ChannelSpaces, depths[-1]).free:
        depths.pop()
    return depths


def _least(attempt: Callable[[int], float], most: int) -> int:
    """The number from 0 to `most` for which a function that falls and then rises is about least, to a sixth of `most`.

    Of the numbers that were tried and are as good it is the smallest.
    """
    if not most:
        return 0
    gap = -(-most // PARTS)
    near = sorted({most // 3, 2 * most // 3})
    tried = dict[int, float]()
    while near:
        tried |= {count: attempt(count) for count in near}
        best = max(as_good(tried))  # networks that are too deep to learn anything are all alike: on to the shallower
        near = [count for count in (best - gap, best + gap) if 0 <= count <= most and count not in tried]
    deepest = min(as_good(tried))
    if deepest == min(tried) > 0:  # layers go on evidence alone
        tried[0] = attempt(0)
    return min(as_good(tried))


def trial_length(epochs: int, samples: int, batch: int) -> int:
    """Samples that a trial is trained on, in a run of `epochs` of `samples` in batches of `batch`.

    At least an epoch, where that is few steps.
    """
    run, few = epochs * samples, STEPS * batch
    return max(min(samples, few), round(min(max(LENGTH * run, few), MOST_OF_RUN * run)))


def as_good(tried: Mapping[int, float], margin: float = MARGIN) -> list[int]:
    """The numbers whose loss is within a share of the least."""
    return [count for count, loss in tried.items() if loss <= min(tried.values()) * (1 + margin)]


def least_missed(graph: Graph, analyses: AnalysisManager, budget: Budget) -> list[RemovableLayer]:
    """What can be removed, that first which the loss misses least for its share of the cost at a budget.

    The share is that of parameters or that of FLOPs, whichever is larger: a layer that is cheap by one is dear by the other. The
    seed ranks them, not a network of the budget, which could be trained no longer than those on trial, and once for all
    (docs/results.md#depth).

    Args:
        graph: the seed, trained a little.
        analyses: of the run.
        budget: at which shares of the cost are counted.
    """
    problem, spaces = analyses.problem, analyses.get(ChannelSpaces, graph)
    layers = [layer for layer in removable_layers(graph, spaces) if _may_go(graph, layer, analyses)]
    if not layers:
        return []
    before, wide = mean_loss(graph, problem, problem.splits.judge), at_budget(graph, budget, analyses)
    left = [morph(graph, spaces, [rebuilt_removal(graph, analyses, layer)]).graph for layer in layers]
    _, *losses = mean_losses(
        settled([graph, *left], problem, batches_read=TRIAL_BATCHES), problem, problem.splits.judge
    )
    missed = dict[RemovableLayer, float]()
    for layer, loss in zip(layers, losses, strict=True):
        share = _share(layer.value, wide, graph)
        missed[layer] = (loss - before) / share if math.isfinite(loss) else math.inf
    return sorted(missed, key=missed.__getitem__)


def _share(value: str, wide: Graph, graph: Graph) -> float:
    """Share of the cost at a budget of the layer that ends at a value.

    At widths that differ a layer may be none that can go, as where a skip of a U-Net reads it: then it is the share at the seed's.
    """
    try:
        whole, rest = cost(wide), cost(without(wide, [value]))
    except PassError:
        whole, rest = cost(graph), cost(without(graph, [value]))
    return max(1 - rest.params / max(1, whole.params), 1 - rest.flops / max(1, whole.flops), 1e-9)


def _may_go(graph: Graph, layer: RemovableLayer, analyses: AnalysisManager) -> bool:
    params = [param for name in layer.nodes for param in graph.nodes[name].params.values()]
    return analyses.scope.lets_go(params, [slot.param for slot in layer.reads])


def kinds_kept(graph: Graph, order: Sequence[RemovableLayer]) -> list[RemovableLayer]:
    """Those of some layers, in their order, that can go while the network keeps one of every kind.

    A kind is a resolution: without its layers, maps are pooled twice in a row; or an op that multiplies values with values, as
    attention does, without which tokens know nothing of each other. Seeds hardly miss them, nor do short trials, but long training
    does (docs/results.md#depth).
    """
    kinds = {name: _kinds(graph, name) for name in graph.nodes}
    left, free = Counter(chain.from_iterable(kinds.values())), list[RemovableLayer]()
    for layer in order:
        own = Counter(chain.from_iterable(kinds[name] for name in layer.nodes))
        if all(left[kind] > own[kind] for kind in own):
            left -= own
            free.append(layer)
    return free


def _kinds(graph: Graph, name: str) -> tuple[int | str, ...]:
    """Of what kinds a node is: at how many positions it uses a weight, and its op where that multiplies values with values."""
    uses = uses_of(graph, name)
    return (*([uses] if uses else ()), *([graph.nodes[name].op] if products_of(graph, name) else ()))


class TrialTraining:
    """The short training that networks on trial have, all the same.

    Args:
        problem: data and loss.
        options: how the run trains.
        length: samples to be trained on, about; more than there are are seen in several epochs.
        draw: number of the new initial weights.
    """

    def __init__(self, problem: Problem, options: TrainOptions, length: int, draw: int = 0) -> None:
        self.problem, self.options, self.draw = problem, options, draw
        self.few = with_few(problem, length)
        self.epochs = max(1, round(length / len(problem.train)))
        self.samples = self.epochs * len(self.few.train)

    def loss(self, graph: Graph) -> float:
        """Loss on the judge split after it, from new initial weights; infinite where that diverges."""
        return self.after(restarted(graph, mixed(self.problem.seed, self.draw)))

    def after(self, started: Graph) -> float:
        """Loss on the judge split after it, from the weights that a network has; infinite where that diverges.

        Args:
            started: the network.
        """
        try:
            trainer = Trainer(
                self.few, self.options, batches_read=0
            )  # statistics are measured where the loss is, below
            trained = trainer.train(started, Stretch(self.epochs, "cosine")).graph
        except TrainingError:  # it diverged
            return math.inf
        network = settled([trained], self.few, batches_read=TRIAL_BATCHES)
        (loss,) = mean_losses(network, self.problem, self.problem.splits.judge)
        return loss if math.isfinite(loss) else math.inf


def at_budget(graph: Graph, budget: Budget, analyses: AnalysisManager) -> Graph:
    """The architecture at widths that are worth the same within a budget, or as narrow as can be.

    Args:
        graph: the architecture.
        budget: that it is to use.
        analyses: of the run, which say what may change.
    """
    spaces = analyses.get(ChannelSpaces, graph)
    model = budget.model(graph, spaces)
    steps = {space.name: analyses.scope.step(space) for space in spaces.free}
    least = {space.name: min(space.size, steps[space.name]) for space in spaces.free}
    widths = allocated(model, {**model.widths, **least}, worths({}, spaces.free), budget, steps=steps)
    morphisms: list[Morphism] = []
    for space in spaces.free:
        change = widths[space.name] - space.size
        morphisms += [PruneChannel(space.name, c) for c in range(space.size + min(0, change), space.size)]
        morphisms += [NewChannel(space.name)] * max(0, change)
    return morph(graph, spaces, morphisms).graph
