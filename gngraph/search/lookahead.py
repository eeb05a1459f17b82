"""Lookahead: allocation rules are tried briefly at the full budget, and the run follows the one that trains best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gngraph.errors import PassError, TrainingError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.evaluation import mean_loss
from gngraph.running.seeding import mixed
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.allocations import ALLOCATIONS
from gngraph.search.situation import Situation, unselected
from gngraph.search.step import apply
from gngraph.search.strategy import GaussNewtonGrowth, Strategy
from gngraph.training.optimizer_state import OptimizerState, carry_state
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

TRIED = ("worth", "equal-worths", "uniform", "proportional")
"""Rules that a lookahead compares: what was measured, and the plain designs."""

LOOKAHEAD = "lookahead"
"""Name of the choice by a lookahead, of its stage, and of its entry in the round's record."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What a lookahead found.

    Attributes:
        strategy: the growth with the rule that was left.
        losses: rule -> loss on the judge split after each leg that its network was in. Rules that ask for the same network
            share its losses.
        epochs: trained, all networks together.
    """

    strategy: GaussNewtonGrowth
    losses: Mapping[str, tuple[float, ...]]
    epochs: int

    def record(self) -> dict[str, Any]:
        """The losses and the epochs as JSON."""
        return {"losses": {rule: list(losses) for rule, losses in self.losses.items()}, "epochs": self.epochs}


@dataclass(eq=False)
class _Contender:
    rules: list[str]
    graph: Graph
    state: OptimizerState
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Lookahead:
    """A choice among allocation rules by successive halving (Jamieson and Talwalkar, AISTATS 2016).

    Each rule makes its network of the whole budget in one rewrite, by exact new channels alone, so that all start from the
    function of the seed and differ only in their widths. All are trained for `epochs` at a constant rate, the half with the higher
    loss on the judge split is dropped, the rest is trained for twice as long, and so on until one is left.

    Cost: at most `epochs` times the number of rules for each halving, of the largest networks of the run: 8 epochs for
    4 rules that ask for 4 networks.

    Attributes:
        growth: the run, whose allocation rule is to be found.
        rules: names of `ALLOCATIONS`; of equal losses the first wins.
        epochs: of the first leg.

    Raises:
        PassError: there is no rule, or none of a name.
        TrainingError: there is no epoch.
    """

    growth: GaussNewtonGrowth = field(default_factory=GaussNewtonGrowth)
    rules: tuple[str, ...] = TRIED
    epochs: int = 1

    def __post_init__(self) -> None:
        if not self.rules:
            raise PassError(f"a lookahead needs a rule to try; choose some of {', '.join(ALLOCATIONS)}")
        if self.epochs < 1:
            raise TrainingError(f"a lookahead cannot compare networks after '{self.epochs}' epochs; give 1 or more")
        for rule in self.rules:
            replace(self.growth, allocation=rule)  # which refuses a name that it does not know

    @property
    def analysis(self) -> GaussNewton | None:
        """What is to be known of the candidates, as for the growth itself."""
        return self.growth.analysis

    @property
    def measures(self) -> bool:
        """Whether one of the rules asks what widths are worth."""
        return any(replace(self.growth, allocation=rule).measures for rule in self.rules)

    def choose(self, situation: Situation, state: OptimizerState, options: TrainOptions, first_epoch: int) -> Choice:
        """The rule whose network trains best; the graph and the state of the run stay as they are.

        Args:
            situation: of the first round, the seed trained.
            state: of the run's optimiser, which each network goes on from.
            options: how the run trains.
            first_epoch: epochs that the run trained before, see `Stretch`.

        Raises:
            TrainingError: a loss became non-finite.
        """
        trainer = Trainer(situation.analyses.problem, options)
        contenders = self._contenders(situation, state)
        left, length, trained = contenders, self.epochs, 0
        while len(left) > 1:
            for contender in left:
                stretch = Stretch(length, warmup=options.warmup, first_epoch=first_epoch)
                result = trainer.train(contender.graph, stretch, contender.state)
                contender.graph, contender.state = result.graph, result.state
                contender.losses.append(_judged(contender, situation))
            first_epoch += length
            trained += length * len(left)
            left = sorted(left, key=lambda r: r.losses[-1])[: (len(left) + 1) // 2]  # stable: the first of equals stays
            length *= 2
        losses = {rule: tuple(contender.losses) for contender in contenders for rule in contender.rules}
        return Choice(
            replace(self.growth, allocation=left[0].rules[0]), {rule: losses[rule] for rule in self.rules}, trained
        )

    def _contenders(self, situation: Situation, state: OptimizerState) -> list[_Contender]:
        """A network for each rule; rules that ask for the same one share it, so that nothing is trained twice."""
        seed = mixed(situation.analyses.problem.seed, 0)
        contenders: list[_Contender] = []
        for rule in self.rules:
            generator = torch.Generator().manual_seed(seed)
            whole = replace(situation, target=situation.budget, generator=generator)
            plan = replace(self.growth, allocation=rule).plan(whole, unselected(whole))
            made = apply(situation.graph, situation.spaces, plan, situation.budget, generator).rewritten
            same = next((contender for contender in contenders if _equal(contender.graph, made.graph)), None)
            if same is not None:
                same.rules.append(rule)
            else:
                contenders.append(_Contender([rule], made.graph, carry_state(state, situation.graph, made)))
        return contenders


def decided_by(allocation: str, analysis: GaussNewton, selection: str) -> Strategy | Lookahead:
    """gngraph's own growth by an allocation rule, or by the one that a lookahead finds.

    Args:
        allocation: a name of `ALLOCATIONS`, or "lookahead".
        analysis, selection: see `GaussNewtonGrowth`.

    Raises:
        PassError: there is no such choice.
    """
    if allocation == LOOKAHEAD:
        return Lookahead(GaussNewtonGrowth(analysis, selection))
    if allocation not in ALLOCATIONS:
        raise PassError(f"allocation '{allocation}' is unknown; choose one of {', '.join((*ALLOCATIONS, LOOKAHEAD))}")
    return GaussNewtonGrowth(analysis, selection, allocation)


def _judged(contender: _Contender, situation: Situation) -> float:
    problem = situation.analyses.problem
    loss = mean_loss(contender.graph, problem, problem.splits.judge)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the judge loss became '{loss}' while a lookahead tried the allocation '{contender.rules[0]}'; lower the learning "
            f"rate or add warm-up"
        )
    return loss


def _equal(a: Graph, b: Graph) -> bool:
    """Whether two rewrites of one graph gave the same tensors."""
    return all(torch.equal(a.params[name].data, b.params[name].data) for name in a.params)
