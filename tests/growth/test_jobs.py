"""Trained networks made larger, reshaped and made smaller."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.errors import BudgetError, OptionError
from gngraph.growth.result import GrowthResult
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import problem, seed_graph, small_vgg


@pytest.fixture(scope="module")
def trained() -> Graph:
    return Trainer(problem(), TrainOptions()).train(seed_graph("vgg11", 1 / 16), Stretch(4, "cosine")).graph


@pytest.fixture(scope="module")
def extended(trained: Graph) -> GrowthResult:
    return gngraph.extend(trained, problem(), by=0.5, epochs=1)


def test_an_extension_uses_its_share_and_loses_nothing(trained: Graph, extended: GrowthResult) -> None:
    result = extended
    shares = [
        cost(result.graph).params / cost(trained).params / 1.5,
        cost(result.graph).flops / cost(trained).flops / 1.5,
    ]
    assert 0.97 < max(shares) <= 1
    first, final = result.history
    losses = first["report_loss"]
    assert losses["after"] - losses["before"] <= max(0.0, first["predicted"]) + 2 * first["predicted_error"] + 1e-3
    assert [epoch["epoch"] for epoch in final["epochs"]] == [1] and not first["epochs"]


def test_an_extension_is_perturbed_only_where_it_is_asked_for(trained: Graph, extended: GrowthResult) -> None:
    results = [extended, gngraph.extend(trained, problem(), epochs=1, perturb=0.3)]
    assert [[record["perturbed"] for record in r.history] for r in results] == [[0.0, 0.0], [0.0, 0.3]]


def test_a_network_of_one_fat_layer_is_reshaped_at_the_same_cost() -> None:
    """A layer of 60 channels at the resolution of one pixel, between layers of few: its channels are moved."""
    graph = small_vgg()
    spaces = ChannelSpaces.of(graph)
    last = list(spaces.free)[-1].name
    graph = gngraph.PassManager(f"new-channels{{count=52,space={last}}}").run(graph).graph
    graph = Trainer(problem(), TrainOptions()).train(graph, Stretch(6)).graph
    before = {space.name: space.size for space in ChannelSpaces.of(graph).free}
    result = gngraph.reshape(graph, problem(), epochs=0)
    after = {space.name: space.size for space in ChannelSpaces.of(result.graph).free}
    assert after[last] < before[last] and sum(after.values()) - after[last] > sum(before.values()) - before[last]
    size, limit = cost(result.graph), cost(graph)
    assert size.params <= limit.params and size.flops <= limit.flops


def test_half_of_the_flops_are_left(trained: Graph) -> None:
    result = gngraph.shrink(trained, problem(), to=0.5, epochs=1)
    assert 0.35 * cost(trained).flops < cost(result.graph).flops <= 0.5 * cost(trained).flops
    removed = [kind for entry in result.history[0]["morphisms"].values() for kind in entry]
    assert set(removed) <= {"merge", "prune", "new"} and "merge" in removed


def test_half_of_the_parameters_are_left_too(trained: Graph) -> None:
    size = cost(gngraph.shrink(trained, problem(), to=0.5, params_to=0.4, epochs=0).graph)
    assert size.params <= 0.4 * cost(trained).params and size.flops <= 0.5 * cost(trained).flops
    assert size.params > 0.3 * cost(trained).params


def test_a_shrunken_network_has_no_more_parameters() -> None:
    """FLOPs that convolutions give up would buy a hundred times as many parameters in the layers behind them."""
    torch.manual_seed(0)
    inner = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Flatten()]
    graph = from_torch(nn.Sequential(*inner, nn.Linear(768, 4), nn.ReLU(), nn.Linear(4, 10)), torch.zeros(2, 1, 8, 8))
    graph = Trainer(problem(), TrainOptions()).train(graph, Stretch(2)).graph
    small = gngraph.shrink(graph, problem(), to=0.5, epochs=0).graph
    assert cost(small).flops <= 0.5 * cost(graph).flops and cost(small).params <= cost(graph).params


@pytest.mark.parametrize("multiple", [1, 4])
def test_a_shrunken_network_is_nowhere_wider(multiple: int) -> None:
    """By its worth a bottleneck would be, with channels that are still to be learned, in place of those that the network uses."""
    torch.manual_seed(0)
    layers = [
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.ReLU(),
        nn.Linear(6, 48),
        nn.ReLU(),
        nn.Linear(48, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    ]
    graph = from_torch(nn.Sequential(*layers), torch.zeros(2, 1, 8, 8))
    graph = Trainer(problem(), TrainOptions()).train(graph, Stretch(2)).graph
    result = gngraph.shrink(graph, problem(), to=0.7, round_to=multiple, epochs=0)
    before, after = ({s.name: s.size for s in ChannelSpaces.of(g).free} for g in (graph, result.graph))
    assert all(after[name] <= width for name, width in before.items()) and next(iter(after.values())) == 6
    assert 0.5 * cost(graph).flops < cost(result.graph).flops <= 0.7 * cost(graph).flops


@pytest.mark.parametrize(("job", "share"), [("extend", 0.0), ("shrink", 1.0), ("shrink", -0.5)])
def test_a_share_out_of_range_is_refused(trained: Graph, job: str, share: float) -> None:
    name = "by" if job == "extend" else "to"
    with pytest.raises(OptionError, match=f"option '{name}' is '{share}', but must be a number above 0 and below"):
        getattr(gngraph, job)(trained, problem(), **{name: share})


def test_a_reshaping_takes_no_share(trained: Graph) -> None:
    with pytest.raises(
        OptionError,
        match="reshape has no option 'by'; choose from checkpoint_every, epochs, exclude, log, only, perturb, round_to, train",
    ):
        gngraph.reshape(trained, problem(), by=0.5)


def test_a_network_that_cannot_be_shrunk_so_far_says_why(trained: Graph) -> None:
    with pytest.raises(BudgetError, match="only bring it down to"):
        gngraph.shrink(trained, problem(), to=0.001, epochs=0)
