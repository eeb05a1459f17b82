"""What the layers of a network are to be: changes of structure with which short trainings end lower.

Families differ by more than any widths within one, and which structure is better shows as early as which depth is. A design is a
depth and the changes that were made to it; it is improved a step at a time, by a change more, by one fewer, or by another depth.
What the constants rest on is in docs/results.md#structure, and `tools/bench_structure.py` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import GnGraphError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.graph_pass import PassResult
from gngraph.rewrite.layer_removal import RemovableLayer
from gngraph.search import depth
from gngraph.search.depth import TrialTraining, at_budget, removed_in_turn, trial_length
from gngraph.search.proposals import PROPOSALS
from gngraph.training.training import batch_of

STRUCTURE = "structure"
"""Name of the search, and of its entry in the round's record."""

AFFORDED = 0.16
"""What trials may cost, as a share of training the network of the budget for the whole run: growth, whose networks are smaller at
first, trains for some two thirds of that, so that it is a quarter of the run's training."""

GAIN = 0.01
"""Share of the loss by which a design must be better than the one that it is a step from."""

ENOUGH = 40
"""FLOPs for each parameter beyond which finer maps are worth nothing of their own."""

COARSE = 0.1
"""Share of the loss that every halving of the FLOPs for each parameter below `ENOUGH` is worth: what is coarse learns soon, and
gains less by a longer training."""

LEADING = 6
"""Proposals that are tried before other depths are, those that decide what a layer costs; the rest follows, if it can be paid."""

FINALISTS = 3
"""Designs that are tried once more, for longer and from other weights: of many that are tried once the best was lucky."""


UNTRIED = (
    "no change of what layers are was tried: none can be made here, or the run is too short to pay for trials, which may cost "
    "about a quarter of its training"
)
"""What to tell of a search for the structure that trained nothing."""


@dataclass(frozen=True)
class Design:
    """A structure, by how it is made of the seed.

    Attributes:
        removed: how many of the layers went that are missed least.
        changes: names of proposals, in the order in which they were applied.
    """

    removed: int
    changes: tuple[str, ...] = ()


@dataclass
class DesignTrial:
    """A design on trial.

    Attributes:
        design: of the seed.
        params, flops: of the network at the budget, FLOPs of one sample.
        losses: on the judge split: after the first training and, of finalists, after longer ones.
    """

    design: Design
    params: int
    flops: int
    losses: list[float] = field(default_factory=list)

    @property
    def coarseness(self) -> float:
        """By how many halvings its FLOPs for each parameter are below `ENOUGH`."""
        return max(0.0, math.log2(max(1, ENOUGH * self.params) / max(1, self.flops)))

    def record(self) -> dict[str, Any]:
        """As JSON, a loss that is not finite as None."""
        losses = [loss if math.isfinite(loss) else None for loss in self.losses]
        return {
            "removed": self.design.removed,
            "changes": list(self.design.changes),
            "params": self.params,
            "flops": self.flops,
            "losses": losses,
        }


@dataclass(frozen=True)
class FoundStructure:
    """What a search for the structure found.

    Attributes:
        changes: names of proposals, in the order in which they were applied.
        removed: layers that went before.
        steps: that make it of the seed.
        trials: in the order in which they were made.
        flops: that they were trained by, beside the trials of the depth.
    """

    changes: tuple[str, ...]
    removed: tuple[RemovableLayer, ...]
    steps: tuple[PassResult, ...]
    trials: tuple[DesignTrial, ...]
    flops: int

    def record(self, graph: Graph) -> dict[str, Any]:
        """As JSON; `graph` is the network that was searched."""
        removed, tried = [layer.title(graph) for layer in self.removed], [trial.record() for trial in self.trials]
        return {"changes": list(self.changes), "removed": removed, "tried": tried, "flops": self.flops}


def searched(
    graph: Graph, analyses: AnalysisManager, budget: Budget, options: TrainOptions, epochs: int, found: depth.Found
) -> FoundStructure:
    """Which changes of its layers a network of a budget does better with.

    It begins at the best of the depths that were tried. Every proposal in turn, depths a sixth further and changes left out are
    tried on the best so far, and taken where they help, until none of them does or `AFFORDED` is spent. The best `FINALISTS`, the
    depth that was found without changes among them, are trained twice as long from other weights, and the best of these is taken,
    where it helps then.

    Cost: `AFFORDED` of the training of the network of the budget for the whole run at most, those for the depth included; for each
    trial the passes' own analyses of the seed beside it.

    Args:
        graph: the seed, trained a little.
        analyses: of the run.
        budget: of the run.
        options: how the run trains.
        epochs: of the run.
        found: the search for the depth, whose trials are the first.
    """
    return _Search(graph, analyses, budget, options, epochs, found).best()


def restructured(graph: Graph, analyses: AnalysisManager, change: str) -> tuple[PassResult, ...]:
    """What makes of a network the one with a change, layer by layer; weights start exact or nearest.

    Args:
        graph: the network.
        analyses: of the run.
        change: name of a proposal.

    Raises:
        PassError: the change cannot be made.
    """
    steps: list[PassResult] = []
    for entry in PROPOSALS[change](graph, analyses):
        steps.append(entry.run(graph, analyses))
        graph = steps[-1].graph
    return tuple(steps)


class _Search:
    def __init__(
        self,
        graph: Graph,
        analyses: AnalysisManager,
        budget: Budget,
        options: TrainOptions,
        epochs: int,
        found: depth.Found,
    ) -> None:
        self.analyses, self.budget, self.options = analyses, budget, options
        self.order, self.problem = found.order, analyses.problem
        self.length = trial_length(epochs, len(self.problem.train), batch_of(options, self.problem))
        self.whole = epochs * len(self.problem.train)
        self.seed = graph
        self.trials = {
            Design(trial.removed): DesignTrial(Design(trial.removed), trial.params, trial.flops, [trial.loss])
            for trial in found.trials
        }
        self.start = Design(len(found.removed))
        self.spent = sum(trial.flops * found.samples for trial in found.trials)
        self.before = self.spent
        self.usual = (
            self.trials[self.start].flops if self.start in self.trials else 0
        )  # FLOPs of the start at the budget
        self._steps: dict[Design, tuple[PassResult, ...]] = {}

    def best(self) -> FoundStructure:
        """What the search finds."""
        chosen = self.start
        if self._tried(self.start):
            self._climb()
            chosen = self._final()
        removed, trials = tuple(self.order[: chosen.removed]), tuple(self.trials.values())
        return FoundStructure(chosen.changes, removed, self.steps(chosen), trials, self.spent - self.before)

    def steps(self, design: Design) -> tuple[PassResult, ...]:
        """What makes the design of the seed, each change once.

        Raises:
            PassError: a change cannot be made.
        """
        if design not in self._steps:
            if not design.changes:
                made = removed_in_turn(self.seed, self.analyses, self.order[: design.removed])
            else:
                before = self.steps(replace(design, changes=design.changes[:-1]))
                graph = before[-1].graph if before else self.seed
                made = (*before, *restructured(graph, self.analyses, design.changes[-1]))
            self._steps[design] = made
        return self._steps[design]

    def _climb(self) -> None:
        """From the best depth that was tried by steps that help, each taken as soon as it is found, until none of all does.

        What helped is tried once more at once: a start may be twice as coarse.
        """
        best, steps, at, idle = min(self.trials, key=self._score), self._steps_of(), 0, 0
        while idle < len(steps):
            design = steps[at](best)
            if design is not None and self._tried(design) and self._helps(design, best):
                best, idle = design, 0
            else:
                at, idle = (at + 1) % len(steps), idle + 1

    def _steps_of(self) -> list[Callable[[Design], Design | None]]:
        """What makes another design of one, or None: a change more, in the order of the proposals; another depth; one fewer."""
        gap, more = -(-len(self.order) // depth.PARTS), [partial(_with_change, name=name) for name in PROPOSALS]
        depths = [partial(self._at_depth, gap=step) for step in (gap, -gap) if gap]
        fewer = [partial(_without_change, name=name) for name in PROPOSALS]
        return [*more[:LEADING], *depths, *more[LEADING:], *fewer]

    def _at_depth(self, design: Design, gap: int) -> Design | None:
        """With as many layers fewer; None where there are not so many."""
        removed = design.removed + gap
        return replace(design, removed=removed) if 0 <= removed <= len(self.order) else None

    def _final(self) -> Design:
        """The best of those that did best, tried for longer; the start where none of them helps then."""
        others = sorted((design for design in self.trials if design != self.start), key=self._score)[: FINALISTS - 1]
        if not others or not self._tried(self.start, 1):
            return self.start
        better = [design for design in others if self._tried(design, 1) and self._helps(design, self.start, 1)]
        return min(better, key=lambda design: self._score(design, 1), default=self.start)

    def _helps(self, design: Design, other: Design, trial: int = 0) -> bool:
        return self._score(design, trial) < (1 - GAIN) * self._score(other, trial)

    def _score(self, design: Design, trial: int = 0) -> float:
        """The loss of a trial, and what it costs later that parameters are used at few positions."""
        found = self.trials[design]
        return found.losses[trial] * math.pow(1 + COARSE, found.coarseness)

    def _tried(self, design: Design, again: int = 0) -> bool:
        """Whether the design has been trained so often, now or before; not where it cannot be made or paid.

        Args:
            design: to be tried.
            again: 1: for twice as long, from other weights.
        """
        trial = self.trials.get(design)
        if trial is not None and len(trial.losses) > again:
            return True
        made = self._at_budget(design)
        if made is None:
            return False
        size, training = cost(made), TrialTraining(self.problem, self.options, self.length << again, again)
        kept = 0 if again else FINALISTS * 2 * self.length  # for the last trials
        self.usual = self.usual or size.flops
        if self.spent + size.flops * training.samples + self.usual * kept > AFFORDED * self.whole * self.usual:
            return False
        self.spent += size.flops * training.samples
        self.trials.setdefault(design, DesignTrial(design, size.params, size.flops)).losses.append(training.loss(made))
        return True

    def _at_budget(self, design: Design) -> Graph | None:
        """Its network of the budget; None where its last change changes nothing, or it cannot be made within the budget."""
        try:
            steps = self.steps(design)
            if design.changes and len(steps) == len(self.steps(replace(design, changes=design.changes[:-1]))):
                return None
            made = at_budget(steps[-1].graph if steps else self.seed, self.budget, self.analyses)
        except GnGraphError:  # a change does not take what another one made of the network
            return None
        return made if self.budget.allows(cost(made)) and self.analyses.get(ChannelSpaces, made).free else None


def _with_change(design: Design, name: str) -> Design:
    return replace(design, changes=(*design.changes, name))


def _without_change(design: Design, name: str) -> Design | None:
    """None where it is the last, which helped just before."""
    if name not in design.changes[:-1]:
        return None
    return replace(design, changes=tuple(other for other in design.changes if other != name))
