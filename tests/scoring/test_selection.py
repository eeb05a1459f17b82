"""Selection on made-up moments, where every answer can be computed the slow way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role, Slot
from gngraph.analysis.cost import Budget, Cost, CostModel, cost
from gngraph.errors import BudgetError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.insertion import insert_layer
from gngraph.rewrite.morphism import (
    InsertLayer,
    MergeChannel,
    Morphism,
    NewChannel,
    PruneChannel,
    SplitChannel,
    edits_of,
)
from gngraph.rewrite.surgery import rewrite
from gngraph.scoring import selection
from gngraph.scoring.gauss_newton import Candidate, Moments, Scores
from gngraph.scoring.selection import select
from gngraph.search.situation import Plan
from gngraph.search.step import apply
from gngraph.search.widths import FLOOR, POWER, TRUST, allocated, worths


@pytest.fixture
def graph() -> Graph:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    return from_torch(net, torch.zeros(1, 4))


@pytest.fixture
def model(graph: Graph) -> CostModel:
    return CostModel(graph, ChannelSpaces.of(graph))


def scores_of(
    s: torch.Tensor,
    q: torch.Tensor,
    morphisms: Sequence[Morphism],
    own: Cost = Cost(1, 1),  # noqa: B008
) -> Scores:
    moments = Moments(s, q)
    gains = -moments.changes()
    candidates = tuple(Candidate(m, m.kind, float(gains[i]), 0.0, own) for i, m in enumerate(morphisms))
    return Scores(candidates, moments, moments, ())


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


def fill(
    model: CostModel, widths: Mapping[str, int], names: Iterable[str], budget: Budget, own: Cost | None = None
) -> list[Morphism]:
    """New channels for the rest of a budget, all spaces being worth the same."""
    wanted = allocated(model, widths, dict.fromkeys(names, 1.0), budget, own)
    return [NewChannel(name) for name in wanted for _ in range(wanted[name] - widths[name])]


def test_the_budget_is_never_exceeded_and_the_cost_is_true(graph: Graph, model: CostModel) -> None:
    s = torch.full((40, 11), -1.0)
    scores = scores_of(s, torch.zeros(1, 40, 11), splits())
    budget = Budget(max_params=cost(graph).params + 30)
    chosen = select(scores, model, budget=budget)
    spaces = ChannelSpaces.of(graph)
    grown = rewrite(graph, spaces, edits_of(graph, spaces, chosen.morphisms(scores))).graph
    assert chosen.chosen and cost(grown) == chosen.cost and budget.allows(cost(grown))
    news = fill(CostModel(grown, ChannelSpaces.of(grown)), chosen.widths, ("0", "2"), budget)
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
    assert chosen.chosen == (1, 0) and chosen.cost.params == cost(graph).params


def test_no_channel_is_pruned_for_nothing(graph: Graph, model: CostModel) -> None:
    """Not where the budget leaves room, not where the loss is too dear, and not where the room would not do."""
    at = cost(graph).params
    for loss, price, limit in ((0.001, 10, at + 10), (0.6, 10, at), (0.001, 10_000, at)):
        grow = InsertLayer("_1") if price == 10_000 else SplitChannel("0", 0)
        morphisms = [grow, *(PruneChannel("0", c) for c in range(1, 6))]
        s = torch.tensor([[-1.0] + [loss] * 5]).repeat(30, 1)
        scores = scores_of(s, torch.zeros(1, 30, 6), morphisms, Cost(price, 0))
        chosen = select(scores, model, budget=Budget(max_params=limit), kinds=("split", "insert", "prune"))
        assert [scores.candidates[i].morphism.kind for i in chosen.chosen] == (["split"] if limit > at else [])


def test_a_removal_leaves_alone_what_it_makes_room_for(graph: Graph, model: CostModel) -> None:
    """The cheapest prune is of the very channel to be split."""
    morphisms: list[Morphism] = [SplitChannel("0", 0), PruneChannel("0", 0), PruneChannel("0", 1)]
    scores = scores_of(torch.tensor([[-1.0, 0.001, 0.1]]).repeat(30, 1), torch.zeros(1, 30, 3), morphisms)
    assert select(scores, model, budget=Budget(max_params=cost(graph).params)).chosen == (2, 0)


def test_a_network_above_the_budget_first_gives_up_what_is_worth_least(graph: Graph, model: CostModel) -> None:
    morphisms: list[Morphism] = [*splits(), *(PruneChannel("0", c) for c in range(6))]
    s = torch.tensor([[-0.1] * 11 + [0.3, 0.1, 0.2, 0.6, 0.5, 0.4]]).repeat(30, 1)
    scores = scores_of(s, torch.zeros(1, 30, 17), morphisms)
    chosen = select(scores, model, budget=Budget(max_params=cost(graph).params - 15), kinds=("prune",))
    assert chosen.chosen == (12, 13) and chosen.cost.params == cost(graph).params - 20
    assert (
        select(scores, model, budget=Budget(max_params=cost(graph).params - 15)).cost.params == cost(graph).params - 20
    )
    with pytest.raises(
        BudgetError,
        match=r"77 parameters and 128 FLOPs, beyond the budget of 20 parameters, and 5 removals.* to 27 and 38;",
    ):
        select(scores, model, budget=Budget(max_params=20))
    with pytest.raises(BudgetError, match="budget of 100 FLOPs, and 1 removals"):
        select(scores, model, budget=Budget(max_flops=100), count=1)


def test_an_insertion_keeps_its_cost_and_the_widths_that_it_was_learned_at(graph: Graph, model: CostModel) -> None:
    morphisms = [InsertLayer("_1"), InsertLayer("_1", "residual"), *splits(), NewChannel("0"), PruneChannel("0", 0)]
    s = torch.tensor([[-1.0, -1.0] + [-0.01] * 13]).repeat(30, 1)
    scores = scores_of(s, torch.zeros(1, 30, 15), morphisms, Cost(20, 0))
    budget = Budget(max_params=cost(graph).params + 45)
    kinds = ("insert", "split", "new", "prune")
    chosen = select(scores, model, budget=budget, kinds=kinds)
    assert chosen.chosen[0] == 0 and 1 not in chosen.chosen and chosen.held == {"0"}
    assert dict(chosen.widths) == {**model.widths, "0": 6, "2": 7}
    assert chosen.cost == model.of(chosen.widths) + Cost(20, 0) and budget.allows(chosen.cost)
    assert "0" in {m.space for m in fill(model, chosen.widths, ("0", "2"), budget)}
    assert fill(model, chosen.widths, ("2",), budget, chosen.cost) == []


def test_layers_are_not_inserted_into_one_space_twice(graph: Graph, model: CostModel) -> None:
    """A residual block at the ReLU makes negative what the layer behind it must find to be positive."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)
    )
    own = from_torch(net, torch.zeros(2, 1, 8, 8))
    relu, pool = (next(n.name for n in own.nodes.values() if n.op.startswith(op)) for op in ("relu", "max_pool"))
    morphisms: list[Morphism] = [InsertLayer(relu, "residual"), InsertLayer(pool, "layer")]
    scores = scores_of(torch.full((30, 2), -1.0), torch.zeros(1, 30, 2), morphisms, Cost(20, 0))
    chosen = select(scores, CostModel(own, ChannelSpaces.of(own)), kinds=("insert",))
    assert len(chosen.chosen) == 1


def test_new_channels_of_a_space_do_not_exclude_each_other(model: CostModel) -> None:
    scores = scores_of(torch.full((30, 3), -0.1), torch.zeros(1, 30, 3), [NewChannel("0")] * 3)
    assert select(scores, model, kinds=("new",)).widths["0"] == 9


@pytest.mark.filterwarnings("ignore:std")
def test_no_candidate_gives_an_empty_set(graph: Graph, model: CostModel) -> None:
    scores = scores_of(torch.zeros(8, 0), torch.zeros(1, 8, 0), [])
    for rule in ("joint", "additive"):
        chosen = select(scores, model, rule=rule)
        assert chosen.chosen == () and chosen.predicted == 0 and chosen.cost == cost(graph)


@pytest.mark.parametrize("seed", range(20))
def test_every_set_can_be_applied_within_its_budget(graph: Graph, model: CostModel, seed: int) -> None:
    """All kinds at once, under a random budget around the cost of the network: merges and removals never collide."""
    generator = torch.Generator().manual_seed(seed)
    spaces = ChannelSpaces.of(graph)
    morphisms: list[Morphism] = [NewChannel("0"), NewChannel("2"), *splits()]
    morphisms += [InsertLayer(at, block) for at in ("_1", "_3") for block in ("layer", "residual")]
    for space, size, reader in (("0", 6, "2.weight"), ("2", 5, "4.weight")):
        for c in range(size):
            b = torch.randn(1, size, generator=generator) * (torch.rand(1, size, generator=generator) < 0.3)
            morphisms += [PruneChannel(space, c), MergeChannel(space, c, {reader: b})]
    s = torch.randn(40, len(morphisms), generator=generator) * 0.01 - 0.02 * torch.rand(
        len(morphisms), generator=generator
    )
    scores = scores_of(s + 0.01, torch.randn(2, 40, len(morphisms), generator=generator) * 0.1, morphisms)
    priced = (
        replace(c, cost=cost(insert_layer(graph, spaces, c.morphism)) - cost(graph))
        if isinstance(c.morphism, InsertLayer)
        else c
        for c in scores.candidates
    )
    scores = replace(scores, candidates=tuple(priced))
    share = 0.7 + 1.6 * float(torch.rand((), generator=generator))
    budget = Budget(round(cost(graph).params * share), round(cost(graph).flops * share))
    chosen = select(scores, model, budget=budget, kinds=("split", "new", "prune", "merge", "insert"))
    names = [space.name for space in spaces.free if space.name not in chosen.held]
    news = fill(model, chosen.widths, names, budget, chosen.cost)
    plan = Plan(chosen, tuple(chosen.morphisms(scores)))
    step = apply(graph, spaces, replace(plan, exact=tuple(news)), budget, generator)
    learned = apply(graph, spaces, plan, budget, generator)
    assert cost(learned.rewritten.graph) == chosen.cost and budget.allows(cost(step.rewritten.graph))
    assert chosen.predicted <= 0 or not budget.allows(cost(graph))


def test_the_size_of_blocks_does_not_matter(model: CostModel, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    morphisms: list[Morphism] = [NewChannel("0")] * 300
    low = torch.randn(2, 64, 20, generator=generator)
    q = 0.1 * (low @ torch.randn(20, 300, generator=generator) + torch.randn(2, 64, 300, generator=generator))
    scores = scores_of(-q.square().sum(0).mean(0).expand(64, 300) * torch.rand(300, generator=generator), q, morphisms)
    chosen = select(scores, model, kinds=("new",)).chosen
    for block, held in ((1, 1), (3, 7), (7, 20), (64, 300)):
        monkeypatch.setattr(selection._Products, "BLOCK", block)
        monkeypatch.setattr(selection._Products, "HELD", held)
        assert select(scores, model, kinds=("new",)).chosen == chosen
    assert len(chosen) > 20


def test_allocated_widths_are_the_best_of_all_that_fit(graph: Graph, model: CostModel) -> None:
    worth = {"0": 1.0, "2": 1.3}
    for budget in (Budget(max_params=400), Budget(max_flops=900), Budget(max_params=500, max_flops=700)):
        found = allocated(model, model.widths, worth, budget)
        possible = [
            sum(w / widths[name] ** POWER for name, w in worth.items())
            for first in range(model.widths["0"], 60)
            for second in range(model.widths["2"], 60)
            for widths in ({**model.widths, "0": first, "2": second},)
            if budget.allows(model.of(widths))
        ]
        assert budget.allows(model.of(found)) and len(possible) > 10
        assert sum(w / found[name] ** POWER for name, w in worth.items()) <= 1.06 * min(possible)  # 2 % of a width


def test_worths_are_relative_and_never_nothing() -> None:
    one = [written(name) for name in "abc"]
    found = worths({"a": 2.0, "b": 0.0}, one)  # their mean stands for c
    assert found == pytest.approx({"a": 2**TRUST, "b": FLOOR**TRUST, "c": 1.0})
    assert set(worths({}, one).values()) == {1.0}
    stream = worths(
        {"a": 2.0, "b": 8.0}, [written("a"), written("b", layers=4)]
    )  # the same for each layer that writes it
    assert stream == pytest.approx({"a": 1.0, "b": 4.0})


def test_a_head_is_worth_what_its_channels_are() -> None:
    found = worths({"heads": 3.0, "hidden": 3.0}, [written("heads", inner=8), written("hidden")])
    assert found["heads"] / 2**POWER == pytest.approx(found["hidden"] / 16**POWER)  # two heads of 8, and 16 channels


def written(name: str, layers: int = 1, inner: int = 1) -> ChannelSpace:
    nodes = [f"{name}{i}" for i in range(layers)]
    return ChannelSpace(name, 4, tuple(Slot(node, 0, 0, inner, Role.PRODUCE, "random", node) for node in nodes))


def test_more_worth_gets_more_width(model: CostModel) -> None:
    plain, first = (
        allocated(model, model.widths, worth, Budget(max_params=400))
        for worth in ({"0": 1.0, "2": 1.0}, {"0": 4.0, "2": 0.1})
    )
    assert first["0"] > plain["0"] and first["2"] < plain["2"]


def test_widths_bound_every_space_from_above(graph: Graph, model: CostModel) -> None:
    """All candidates gain: splits stop at the width of their space, a space that is too wide gives up what it misses least."""
    gains = torch.tensor([0.5 + 0.01 * c for c in range(11)])
    grown = select(scores_of(-gains.repeat(40, 1), torch.zeros(1, 40, 11), splits()), model, widths={"0": 8})
    assert grown.widths["0"] == 8 and grown.widths["2"] == 2 * model.widths["2"]
    lost = torch.tensor([0.3, 0.1, 0.2, 0.6, 0.5, 0.4])
    prunes = scores_of(lost.repeat(30, 1), torch.zeros(1, 30, 6), [PruneChannel("0", c) for c in range(6)])
    fewer = select(prunes, model, widths={"0": 4}, kinds=("prune",))
    assert sorted(fewer.chosen) == [1, 2] and fewer.widths["0"] == 4
    with pytest.raises(BudgetError, match=r"no limit or of widths.*space '2' to 5 channels of 3"):
        select(prunes, model, widths={"2": 3}, kinds=("prune",))


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
