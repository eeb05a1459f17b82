"""Selection on made-up moments, where every answer can be computed the slow way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, CostModel, cost
from gngraph.convert.from_torch import from_torch
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.scoring import selection
from gngraph.scoring.gauss_newton import Candidate, Moments, Scores
from gngraph.scoring.selection import fill, select


@pytest.fixture
def graph() -> Graph:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    return from_torch(net, torch.zeros(1, 4))


@pytest.fixture
def model(graph: Graph) -> CostModel:
    return CostModel(graph, ChannelSpaces.of(graph))


def scores_of(s: torch.Tensor, q: torch.Tensor, morphisms: Sequence[Morphism]) -> Scores:
    moments = Moments(s, q)
    gains = -moments.changes()
    candidates = tuple(Candidate(m, m.space, float(gains[i]), 0.0, Cost(1, 1)) for i, m in enumerate(morphisms))
    return Scores(candidates, moments, moments, {"0": 1.0, "2": 2.0}, ())


def splits() -> Sequence[Morphism]:
    return [SplitChannel("0", c) for c in range(6)] + [SplitChannel("2", c) for c in range(5)]


def test_joint_selection_sees_redundancy(model: CostModel) -> None:
    """Two candidates that repair the same mistakes: one is enough, and the joint prediction of the set is exact."""
    s = torch.full((50, 11), 0.5)
    s[:, 0] = s[:, 1] = -1.0
    q = torch.zeros(1, 50, 11)
    q[0, :, 0] = q[0, :, 1] = 1.0
    scores = scores_of(s, q, splits())
    joint, additive = select(scores, model), select(scores, model, rule="additive")
    assert len(joint.chosen) == 1 and joint.predicted == pytest.approx(-0.5)
    assert sorted(additive.chosen) == [0, 1] and additive.predicted == pytest.approx(-1.0)
    assert scores.judge.change_of([0, 1]) == pytest.approx(0.0)


def test_greedy_choice_equals_the_slow_way(model: CostModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "CAUTION", 0.0)
    generator = torch.Generator().manual_seed(1)
    s = torch.randn(80, 11, generator=generator) * 0.1 - 0.05
    q = torch.randn(2, 80, 11, generator=generator) * 0.3
    scores = scores_of(s, q, splits())
    chosen = select(scores, model, count=6).chosen
    slow: list[int] = []
    while len(slow) < 6:
        rest = [i for i in range(11) if i not in slow]
        best = min(rest, key=lambda i: scores.judge.change_of([*slow, i]))
        if scores.judge.change_of([*slow, best]) >= scores.judge.change_of(slow):
            break
        slow.append(best)
    assert list(chosen) == slow


def test_the_budget_is_never_exceeded_and_the_cost_is_true(graph: Graph, model: CostModel) -> None:
    s = torch.full((40, 11), -1.0)
    scores = scores_of(s, torch.zeros(1, 40, 11), splits())
    budget = Budget(max_params=cost(graph).params + 30)
    chosen = select(scores, model, budget=budget)
    spaces = ChannelSpaces.of(graph)
    grown = rewrite(graph, spaces, edits_of(graph, spaces, chosen.morphisms(scores))).graph
    assert chosen.chosen and cost(grown) == chosen.cost and budget.allows(cost(grown))
    news = fill(ChannelSpaces.of(grown), CostModel(grown, ChannelSpaces.of(grown)), chosen.widths, budget, {"0": 1.0})
    spaces = ChannelSpaces.of(grown)
    full = rewrite(grown, spaces, edits_of(grown, spaces, news)).graph
    assert budget.allows(cost(full)) and cost(full).params >= budget.max_params - 9  # type: ignore[operator]


def test_a_worthless_channel_is_pruned_and_one_is_kept(model: CostModel) -> None:
    morphisms: list[Morphism] = [PruneChannel("0", c) for c in range(6)]
    scores = scores_of(torch.full((30, 6), -0.1), torch.zeros(1, 30, 6), morphisms)
    chosen = select(scores, model, budget=Budget(max_params=1000))
    assert len(chosen.chosen) == 5 and chosen.widths["0"] == 1


def test_a_prune_pays_for_a_split(graph: Graph, model: CostModel) -> None:
    """Nothing fits the budget, but a nearly worthless channel makes room for a valuable one."""
    morphisms: list[Morphism] = [SplitChannel("0", 0), PruneChannel("0", 1)]
    s = torch.tensor([[-1.0, 0.001]]).repeat(30, 1)
    scores = scores_of(s, torch.zeros(1, 30, 2), morphisms)
    chosen = select(scores, model, budget=Budget(max_params=cost(graph).params))
    assert chosen.cost.params <= cost(graph).params


def test_channels_are_used_once(model: CostModel) -> None:
    morphisms: list[Morphism] = [SplitChannel("0", 0, "a"), SplitChannel("0", 0, "b"), PruneChannel("0", 0)]
    scores = scores_of(torch.full((30, 3), -0.1), torch.zeros(1, 30, 3), morphisms)
    assert len(select(scores, model).chosen) == 1


def test_unknown_rule(model: CostModel) -> None:
    scores = scores_of(torch.zeros(8, 11), torch.zeros(1, 8, 11), splits())
    with pytest.raises(PassError, match="'best' is unknown; choose one of joint, additive"):
        select(scores, model, rule="best")


def test_marginal_cost_follows_the_widths(graph: Graph, model: CostModel) -> None:
    """Two neighbouring layers that grow share a corner."""
    spaces = ChannelSpaces.of(graph)
    both = rewrite(graph, spaces, edits_of(graph, spaces, [NewChannel("0"), NewChannel("2")])).graph
    first = model.marginal("0", model.widths)
    second = model.marginal("2", {**model.widths, "0": 7})
    assert cost(both).params == cost(graph).params + first.params + second.params
    assert cost(both).flops == cost(graph).flops + first.flops + second.flops
