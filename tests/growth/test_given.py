"""What a trained network knows is kept, and another is searched: decided by what it knows as it is given."""

from __future__ import annotations

import pytest
import torch

import gngraph
from gngraph.errors import OptionError
from gngraph.options import GrowOptions, TrainOptions
from gngraph.report.words import describe_given
from gngraph.search.chance import is_trained, known
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import problem, seed_graph

TRAIN = TrainOptions(batch_size=32)


class Told:
    """Keeps what was decided."""

    def __init__(self) -> None:
        self.given: list[dict[str, object]] = []

    def network_given(self, given: dict[str, object]) -> None:
        self.given.append(given)


@pytest.mark.parametrize(("epochs", "trained"), [(0, False), (6, True)])
def test_it_is_decided_by_what_the_network_knows(epochs: int, trained: bool) -> None:
    asked = problem()
    graph = Trainer(asked, TRAIN).train(seed_graph(), Stretch(epochs, "cosine")).graph
    told = Told()
    limit = 2 * graph.num_params()
    result = gngraph.grow(
        graph, asked, max_params=limit, rounds=1, epochs=0, final_epochs=1, train=TRAIN, observer=told
    )
    given = result.history[0]["given"]
    assert told.given == [given] and "given" not in result.history[-1]
    assert given["trained"] is trained
    assert (given["perturb"], given["depth"]) == ((0.0, "keep") if trained else (0.3, "search"))
    assert result.history[-1]["perturbed"] == given["perturb"]
    assert ("depth" in result.history[0]) is not trained
    assert ("all layers stay" in describe_given(given)) is trained


def test_what_is_asked_for_is_done_and_nothing_is_looked_at() -> None:
    told = Told()
    result = gngraph.grow(
        seed_graph(),
        problem(),
        max_params=5000,
        rounds=1,
        epochs=0,
        final_epochs=0,
        perturb=0.0,
        depth="keep",
        observer=told,
    )
    assert not told.given and "given" not in result.history[0]


def test_one_of_both_may_be_left_to_the_run() -> None:
    options = GrowOptions(max_params=10, perturb=0.5)
    assert options.automatic and options.settled(True).share == 0.5 and options.settled(True).depth == "keep"
    assert options.settled(False).depth == "search"
    with pytest.raises(OptionError, match="a number of at least 0 and at most 1 or auto"):
        GrowOptions.of(max_params=10, perturb="lots")


def test_loss_that_is_not_finite_is_no_knowledge() -> None:
    graph = seed_graph()
    name = next(iter(graph.params))
    broken = graph.with_params({name: torch.full_like(graph.params[name].data, torch.nan)})
    assert not is_trained(broken, problem(), known(broken, problem()))
