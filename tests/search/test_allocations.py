"""Allocation rules: what they add fits, goes where the rule says, and preserves the function."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.growth.jobs import Task
from gngraph.growth.loop import grow_by
from gngraph.ir import Graph
from gngraph.lowering.to_torch import run
from gngraph.options import RunOptions
from gngraph.rewrite.morphing import morph
from gngraph.search import allocations, strategy
from gngraph.search.allocations import ALLOCATIONS, Nothing, register_allocation
from gngraph.search.situation import Plan, Situation, unscored, unselected
from gngraph.search.strategy import GaussNewtonGrowth
from tests.problems import problem, seed_graph, small_vgg


def start(graph: Graph, factor: float, held: tuple[str, ...] = ()) -> tuple[Situation, Plan]:
    """A last round that may cost `factor` times what the network does, with nothing chosen."""
    limit, generator = Budget(int(cost(graph).params * factor)), torch.Generator().manual_seed(0)
    situation = Situation(graph, AnalysisManager(problem()), unscored(), {}, limit, limit, generator)
    return situation, Plan(replace(unselected(situation), held=frozenset(held)))


def run_of(rounds: int) -> RunOptions:
    return RunOptions(rounds=rounds, epochs=1, final_epochs=0, perturb=0.0, depth="keep")


@pytest.mark.parametrize("name", ["worth", "equal-worths", "uniform", "proportional"])
@pytest.mark.parametrize("build", [seed_graph, small_vgg])
def test_the_room_is_used_and_not_exceeded(name: str, build: object) -> None:
    graph = small_vgg() if build is small_vgg else seed_graph()
    own, plan = start(graph, 1.6)
    morphisms = list(ALLOCATIONS[name].fill(own, plan))
    wider = morph(graph, own.spaces, morphisms).graph
    assert own.target.allows(cost(wider)) and cost(wider).params > 1.3 * cost(graph).params
    x = torch.randn(8, 1, 8, 8)
    change = (run(wider, x) - run(graph, x)).norm() / run(graph, x).norm()
    assert change < 1e-5


def test_uniform_and_proportional_widths() -> None:
    graph = seed_graph(width=0.05)  # 13 and 13
    spaces = ChannelSpaces.of(graph)
    first, second = (space.name for space in spaces.free)
    wider = morph(graph, spaces, list(ALLOCATIONS["uniform"].fill(*start(graph, 3.0, (first,))))).graph
    assert ChannelSpaces.of(wider)[first].size == 13 and ChannelSpaces.of(wider)[second].size > 40
    even = morph(wider, ChannelSpaces.of(wider), list(ALLOCATIONS["uniform"].fill(*start(wider, 9.0)))).graph
    sizes = {name: ChannelSpaces.of(even)[name].size for name in (first, second)}
    assert sizes[first] >= sizes[second] - 1
    kept = morph(wider, ChannelSpaces.of(wider), list(ALLOCATIONS["proportional"].fill(*start(wider, 3.0)))).graph
    ratio = {g: ChannelSpaces.of(g)[second].size / ChannelSpaces.of(g)[first].size for g in (wider, kept)}
    assert ratio[kept] == pytest.approx(ratio[wider], rel=0.1)


def test_a_run_without_candidates_grows_by_the_rule_alone() -> None:
    seed = small_vgg()
    budget = Budget(4 * cost(seed).params)
    uniform = GaussNewtonGrowth(None, allocation="uniform")
    result = grow_by(Task(uniform, budget, run_of(rounds=2)), seed, problem())
    widths = [space.size for space in ChannelSpaces.of(result.graph).free]
    assert max(widths) - min(widths) <= 8 - 1 and budget.allows(cost(result.graph))
    for record in result.history[:2]:
        assert record["predicted"] == 0 and record["refused"] is None and abs(record["actual"]) < 1e-5


def test_without_filling_the_budget_is_left_over() -> None:
    seed = seed_graph()
    budget = Budget(50 * cost(seed).params)
    none = GaussNewtonGrowth(allocation="none")
    result = grow_by(Task(none, budget, run_of(rounds=1)), seed, problem())
    assert cost(result.graph).params < 3 * cost(seed).params
    with pytest.raises(PassError, match="allocation 'all' is unknown; choose one of worth, none"):
        GaussNewtonGrowth(allocation="all")


def test_a_rule_of_ones_own_is_known_by_its_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocations, "ALLOCATIONS", dict(ALLOCATIONS))
    monkeypatch.setattr(strategy, "ALLOCATIONS", allocations.ALLOCATIONS)
    with pytest.raises(PassError, match="allocation 'all-alike' is unknown"):
        GaussNewtonGrowth(allocation="all-alike")
    register_allocation("all-alike", Nothing())
    assert GaussNewtonGrowth(allocation="all-alike").measures is Nothing.measures
    for taken in ("all-alike", "uniform"):
        with pytest.raises(PassError, match=f"allocation '{taken}' is registered already; give this one another name"):
            register_allocation(taken, Nothing())
    assert "all-alike" not in ALLOCATIONS and not isinstance(ALLOCATIONS["uniform"], Nothing)


def test_worth_narrows_what_even_the_budget_does_not_want() -> None:
    """The second space is worth a hundredth of the first, and the analysis can remove its channels."""
    graph = seed_graph(width=0.05)
    own, plan = start(graph, 1.0)
    first, second = (space.name for space in own.spaces.free)
    rule, before = ALLOCATIONS["worth"], plan.selection.widths
    lopsided, free = replace(own, worths={first: 1.0, second: 1e-9}), replace(plan, removable={second})
    wanted = rule.widths(lopsided, free)
    assert wanted is not None and wanted[second] < before[second] and wanted[first] > before[first]
    assert own.target.allows(own.model.of(wanted))
    assert rule.widths(lopsided, plan) == before  # nothing can be removed
    more = replace(lopsided, budget=Budget(100 * cost(graph).params))
    assert rule.widths(more, free) == before  # not in the last round
