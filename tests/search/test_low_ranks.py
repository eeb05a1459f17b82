"""Low-rank layers come before narrower ones where they lose less for what they save."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, cost
from gngraph.errors import OptionError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.structure import Factorise
from gngraph.scoring.factors import low_rank
from gngraph.scoring.gauss_newton import Candidate, Moments, Scores
from gngraph.scoring.layer_moments import LayerMoments
from gngraph.search.low_ranks import cheaper
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import problem

BOTH = ("prune", "low-rank")


@pytest.fixture(scope="module")
def redundant() -> Graph:
    """Its inner layer is of rank 4, and all of its channels count."""
    torch.manual_seed(0)
    inner = [nn.Linear(20, 4, bias=False), nn.Linear(4, 64, bias=False)]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), *inner, nn.ReLU(), nn.Linear(64, 10))
    graph = from_torch(net, torch.zeros(2, 1, 8, 8))
    graph = Trainer(problem(), TrainOptions(lr=0.05)).train(graph, Stretch(60, "cosine")).graph
    return gngraph.PassManager("collapse-layers{at=4}").run(graph).graph


def test_layers_become_low_rank_within_the_budget(redundant: Graph) -> None:
    before, limit = cost(redundant), 0.7 * cost(redundant).flops
    alone, result = (
        gngraph.shrink(redundant, problem(), to=0.7, epochs=0, kinds=kinds) for kinds in (("prune",), BOTH)
    )
    assert 0.6 * before.flops < cost(result.graph).flops <= limit and cost(result.graph).params <= before.params
    made, narrowed = ({kind for entry in r.history[0]["morphisms"].values() for kind in entry} for r in (result, alone))
    assert "low-rank" in made and "low-rank" not in narrowed
    assert any(space.name.endswith(".reduce") for space in ChannelSpaces.of(result.graph))
    assert result.history[0]["report_loss"]["after"] < alone.history[0]["report_loss"]["after"]


def test_what_may_not_change_stays(redundant: Graph) -> None:
    result = gngraph.shrink(redundant, problem(), to=0.9, epochs=0, kinds=BOTH, only=("1",))
    assert "4.reduce" not in {space.name for space in ChannelSpaces.of(result.graph)}


def test_channels_have_to_be_among_the_kinds(redundant: Graph) -> None:
    with pytest.raises(OptionError, match="name prune among the kinds too"):
        gngraph.shrink(redundant, problem(), kinds=("low-rank",))


def _scores(changes: list[float], sites: list[str], saved: list[int]) -> Scores:
    factor = torch.ones(1, 1)
    morphisms = [Factorise(site, "low-rank", factor, factor, None) for site in sites]
    candidates = tuple(
        Candidate(m, site, -change, 0.0, Cost(0, -less))
        for m, site, change, less in zip(morphisms, sites, changes, saved, strict=True)
    )
    moments = Moments(torch.tensor([changes] * 4), torch.zeros(1, 4, len(changes)))
    return Scores(candidates, moments, moments, ())


def test_a_factorisation_pays_by_its_price_until_the_budget_is_reached() -> None:
    budget, size = Budget(max_flops=100), Cost(0, 200)
    scores = _scores([0.1, 0.5, 0.02, 0.3], ["a", "a", "b", "c"], [40, 60, 10, 30])
    assert cheaper(scores, size, budget, 0.0) == []
    assert cheaper(scores, size, budget, 0.5) == [2, 0]  # "c", and a lower rank of "a", lose more than they save
    assert cheaper(scores, size, budget, 100.0) == [2, 1, 3]
    assert cheaper(scores, Cost(0, 150), budget, 100.0) == [2, 0]  # enough


def test_factors_are_of_equal_lengths() -> None:
    """A metric of the loss is tiny, and would leave one factor huge: training would break what was learned."""
    torch.manual_seed(0)
    graph = from_torch(nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)), torch.zeros(2, 7))
    moments = LayerMoments(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64))
    metric = torch.diag(torch.tensor([1e-8, 2e-8, 1e-7, 3e-7, 1e-9, 5e-8], dtype=torch.float64))
    factors = low_rank(graph, "_0", 3, moments, metric)
    assert torch.allclose(factors.first.norm(dim=1), factors.second.norm(dim=0), rtol=1e-5)
    whole = low_rank(graph, "_0", 6, moments, metric)
    weight = graph.params[graph.nodes["_0"].params["weight"]].data
    assert torch.allclose(whole.second @ whole.first, weight.to(whole.first.dtype), atol=1e-5)
