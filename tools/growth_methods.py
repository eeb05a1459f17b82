"""The methods of the growth benchmark's job "search": plain designs, and growth by strategies. An ablation is one more line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import gngraph.baselines  # noqa: F401  (makes its kinds and rules known)
from gngraph.analysis.cost import Budget
from gngraph.errors import BudgetError
from gngraph.growth.jobs import Task
from gngraph.ir import Graph
from gngraph.options.runs import Depth, Structure
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.selection import Selection
from gngraph.search.lookahead import Lookahead
from gngraph.search.situation import Plan, Situation, unselected
from gngraph.search.strategy import KINDS, GaussNewtonGrowth, Strategy
from tools.growth_cells import CELLS, random_cells
from tools.growth_designs import DESIGNS
from tools.growth_runs import Run

Method = Callable[[Run], Graph]
"""Makes a trained network within the run's budget, and charges what it costs to the run's meter."""

PROPOSED = 16
"""New channels that GradMax and TINY are asked for by layer and round; what a layer needs beyond them starts as fresh ones."""


_UNIFORM = GaussNewtonGrowth(None, allocation="uniform")


@dataclass(frozen=True)
class FirstOrder:
    """Firefly's rule: the candidates of the lowest first-order change of the loss, over all layers, until the budget is full.

    What is left when every channel is split goes to fresh channels in the narrowest spaces.
    """

    analysis: GaussNewton = field(default_factory=lambda: GaussNewton(kinds=("split-firefly",)))
    allocation: str = _UNIFORM.allocation
    measures: bool = _UNIFORM.measures

    def learned(self, situation: Situation) -> Selection:
        """The best by their first-order change on the judge split, each channel once."""
        scores, model = situation.scores, situation.model
        change = scores.judge.s.mean(0)
        widths, cost, chosen, seen = dict(model.widths), model.of(model.widths), list[int](), set[tuple[str, int]]()
        for i in change.argsort().tolist():
            morphism = scores.candidates[i].morphism
            channel = (morphism.space, getattr(morphism, "channel", -1))
            more = model.marginal(morphism.space, widths)
            if float(change[i]) < 0 and channel not in seen and situation.target.allows(cost + more):
                seen.add(channel)
                chosen.append(i)
                widths[morphism.space] += 1
                cost += more
        return _selected(situation, chosen, widths)

    def plan(self, situation: Situation, selection: Selection) -> Plan:
        """The splits, and fresh channels."""
        return _UNIFORM.plan(situation, selection)


@dataclass(frozen=True)
class PlacedUniformly:
    """Fresh channels are placed in the narrowest spaces; each starts as the next that the analysis proposes for its space."""

    analysis: GaussNewton
    allocation: str = _UNIFORM.allocation
    measures: bool = _UNIFORM.measures

    def learned(self, situation: Situation) -> Selection:
        """For each space as many candidates as it gets channels, in the order in which they are proposed."""
        model, waiting = situation.model, dict[str, list[int]]()
        for i, candidate in enumerate(situation.scores.candidates):
            waiting.setdefault(candidate.morphism.space, []).append(i)
        widths, chosen = dict(model.widths), list[int]()
        for morphism in _UNIFORM.plan(situation, unselected(situation)).exact:
            if waiting.get(morphism.space):
                chosen.append(waiting[morphism.space].pop(0))
                widths[morphism.space] += 1
        return _selected(situation, chosen, widths)

    def plan(self, situation: Situation, selection: Selection) -> Plan:
        """The proposed channels, and plain ones where there are too few."""
        return _UNIFORM.plan(situation, selection)


def _selected(situation: Situation, chosen: list[int], widths: Mapping[str, int]) -> Selection:
    """A selection with the predictions that belong to it."""
    scores = situation.scores
    judged, reported = (moments.change_of(chosen) if chosen else 0.0 for moments in (scores.judge, scores.report))
    return Selection(tuple(chosen), judged, reported, widths, situation.model.of(widths), frozenset())


def _analysed(*kinds: str, curvature: str = "mc", new: int = GaussNewton.new) -> GaussNewton:
    return GaussNewton(curvature, kinds=kinds, new=new)


OWN: Mapping[str, Strategy] = {
    "gngraph": GaussNewtonGrowth(),
    "gngraph-new": GaussNewtonGrowth(_analysed("new", "prune", new=PROPOSED)),
    "gngraph-exact": GaussNewtonGrowth(_analysed("prune")),
    "joint-no-fill": GaussNewtonGrowth(allocation="none"),
    "joint-fill-uniform": GaussNewtonGrowth(allocation="uniform"),
    "joint-fill-proportional": GaussNewtonGrowth(allocation="proportional"),
    "additive": GaussNewtonGrowth(selection="additive"),
    "rank1": GaussNewtonGrowth(_analysed(*KINDS, curvature="rank1")),
    "with-insertions": GaussNewtonGrowth(_analysed(*KINDS, "insert")),
    "equal-worths": GaussNewtonGrowth(None),
}
"""gngraph's default and its ablations, which all find out how deep the network is to be before they grow."""

OTHERS: Mapping[str, Strategy] = {
    "paper": GaussNewtonGrowth(_analysed("split", "prune", curvature="rank1"), "additive", "none"),
    "random-split": GaussNewtonGrowth(None, allocation="random-twins"),
    "net2net": GaussNewtonGrowth(None, allocation="near-copies"),
    "firefly": FirstOrder(),
    "gradmax": PlacedUniformly(_analysed("new-gradmax", new=PROPOSED)),
    "tiny": PlacedUniformly(_analysed("new-tiny", new=PROPOSED)),
    "new-random": PlacedUniformly(_analysed("new-random", new=PROPOSED)),
    "fresh": GaussNewtonGrowth(None, allocation="uniform"),
    "fresh-proportional": GaussNewtonGrowth(None, allocation="proportional"),
}
"""Other methods, which keep all layers.

"random-split" and "net2net" split a channel at most once a round: more rounds are needed where one would more than double widths.
"""

STRATEGIES: Mapping[str, Strategy] = {**OWN, **OTHERS}
"""How networks grow."""


def plain(design: str, run: Run) -> Graph:
    """A plain design at the budget, trained from scratch."""
    return run.scratch(run.design(design))


def grown(strategy: Strategy | Lookahead, run: Run, depth: Depth = "keep", structure: Structure = "keep") -> Graph:
    """A small seed, grown in rounds to the budget and trained on, for as many epochs as a plain design.

    Args:
        strategy: what a round grows.
        run: whose budget is filled, and which pays.
        depth: whether layers may go first.
        structure: whether what they are may change first.
    """
    settings, budget = run.settings, run.budget
    small = Budget(*(side and max(1, int(side * settings.start)) for side in (budget.max_params, budget.max_flops)))
    seed = run.design(settings.design, small)
    rest = settings.epochs - settings.rounds * settings.round_epochs
    options = run.growing(settings.rounds, settings.round_epochs, rest, depth, structure)
    return run.grow(Task(strategy, budget, options), seed).graph


RANDOM = 8
"""Random architectures of the size space of cells that there are methods for."""


def of_size_space(number: int, run: Run) -> Graph:
    """A random architecture of the size space of cells within the budget, trained from scratch.

    Raises:
        BudgetError: the table is of another network, or the space has none within the budget.
    """
    if run.settings.network != CELLS:
        raise BudgetError(f"random architectures are of --network {CELLS}, not of '{run.settings.network}'")
    return run.scratch(run.reset(random_cells(number, run.budget, run.problem.data)))


SEARCH: Mapping[str, Method] = {
    **{name: partial(plain, name) for name in DESIGNS},
    **{name: partial(grown, strategy, depth="search") for name, strategy in OWN.items()},
    "gngraph-all-layers": partial(grown, OWN["gngraph"]),
    "gngraph-structure": partial(grown, OWN["gngraph"], depth="search", structure="search"),
    "gngraph-lookahead": partial(grown, Lookahead(), depth="search"),
    **{name: partial(grown, strategy) for name, strategy in OTHERS.items()},
    **{f"random-{number}": partial(of_size_space, number) for number in range(1, RANDOM + 1)},
}
