"""Training repeats, learns, keeps what it must, and stops at a loss that is not finite."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from gngraph.errors import OptionError, TrainingError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.options.training import OptimizerName
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.running.problem import Problem
from gngraph.training.progress import EpochRecord
from gngraph.training.stretch import Schedule, Stretch
from gngraph.training.training import Trainer
from tests.problems import dropping, problem, seed_graph


def options(optimizer: OptimizerName = "sgd", lr: float | None = None) -> TrainOptions:
    return TrainOptions(optimizer=optimizer, lr=lr, batch_size=32)


def same(a: Graph, b: Graph) -> bool:
    return all(torch.equal(a.params[name].data, b.params[name].data) for name in a.params)


def losses(records: tuple[EpochRecord, ...]) -> list[dict[str, object]]:
    return [{k: v for k, v in asdict(r).items() if k != "seconds"} for r in records]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_lowers_the_loss_and_leaves_the_graph_alone(optimizer: OptimizerName) -> None:
    graph, task = seed_graph(), problem()
    before = {name: p.data.clone() for name, p in graph.params.items()}
    trained = Trainer(task, options(optimizer)).train(graph, Stretch(12))
    assert mean_loss(trained.graph, task, task.train) < 0.8 * mean_loss(graph, task, task.train)
    assert all(torch.equal(graph.params[name].data, before[name]) for name in before)
    assert [r.epoch for r in trained.epochs] == list(range(1, 13))
    assert trained.epochs[-1].accuracy is not None and trained.epochs[-1].accuracy > trained.epochs[0].accuracy  # type: ignore[operator]


def test_a_run_repeats_to_the_bit_with_dropout_and_leaves_the_global_random_state() -> None:
    graph, task = dropping(), problem()
    state = torch.get_rng_state()
    first = Trainer(task, options()).train(graph, Stretch(2, "cosine"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    second = Trainer(task, options()).train(graph, Stretch(2, "cosine"))
    assert same(first.graph, second.graph)
    assert losses(first.epochs) == losses(second.epochs)


def test_another_seed_or_a_later_epoch_gives_another_order() -> None:
    graph = seed_graph()
    runs = [
        Trainer(problem(seed), options()).train(graph, Stretch(1, first_epoch=epoch)).epochs[0].loss
        for seed, epoch in ((0, 0), (1, 0), (0, 1))
    ]
    assert len(set(runs)) == 3


def test_two_stretches_with_the_state_between_are_one_long_stretch() -> None:
    graph, trainer = dropping(), Trainer(problem(), options())
    whole = trainer.train(graph, Stretch(3))
    first = trainer.train(graph, Stretch(2))
    second = trainer.train(first.graph, Stretch(1, first_epoch=2), first.state)
    assert same(whole.graph, second.graph)


def test_tied_weights_stay_one_parameter_and_batchnorm_counts_its_batches() -> None:
    graph = dropping()
    trained = Trainer(problem(), options()).train(graph, Stretch(1))
    assert "again.weight" not in trained.graph.params and trained.graph.params["inner.weight"].aliases
    assert int(trained.graph.params["norm.num_batches_tracked"].data) == -(-len(problem().train) // 32)
    assert not torch.equal(trained.graph.params["norm.running_mean"].data, graph.params["norm.running_mean"].data)
    assert "inner.weight" in trained.state.entries and "again.weight" not in trained.state.entries


def test_a_parameter_without_gradient_is_not_trained() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    net[1].requires_grad_(False)
    graph = from_torch(net, torch.zeros(2, 1, 8, 8))
    trained = Trainer(problem(), options()).train(graph, Stretch(1)).graph
    assert torch.equal(trained.params["1.weight"].data, graph.params["1.weight"].data)
    assert not torch.equal(trained.params["3.weight"].data, graph.params["3.weight"].data)
    net.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        Trainer(problem(), options()).train(from_torch(net, torch.zeros(2, 1, 8, 8)), Stretch(1))


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step() -> None:
    graph = seed_graph()
    with pytest.raises(TrainingError, match=r"at step \d+ of epoch \d+ with learning rate '1e\+12'; lower it"):
        Trainer(problem(), options(lr=1e12)).train(graph, Stretch(20))
    assert all(bool(torch.isfinite(p.data).all()) for p in graph.params.values())


def test_no_epoch_gives_the_graph_itself() -> None:
    graph = seed_graph()
    assert Trainer(problem(), options()).train(graph, Stretch(0, "cosine")).graph is graph


def test_the_rate_warms_up_and_falls() -> None:
    stretch = Stretch(4, "cosine", warmup=1.0)
    assert stretch.factor(0.0) == 0.0 and stretch.factor(4.0) == pytest.approx(0.0)
    assert stretch.factor(0.5) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi / 8)))
    assert stretch.factor(1.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert Stretch(4, warmup=1.0).factor(3.0) == Stretch(4).factor(0.0) == 1.0
    trained = Trainer(problem(), options(lr=0.1)).train(seed_graph(), Stretch(2, "cosine"))
    assert trained.epochs[1].lr == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * (1 + 5.5 / 6) / 2)))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_stretches_rise_and_fall_as_one(schedule: Schedule) -> None:
    whole = Stretch(8, schedule, warmup=3.5, horizon=8)
    for ends in ((1, 2, 5), (3, 1, 4), (2, 4, 2)):
        first = 0
        for epochs in ends:
            part = Stretch(epochs, schedule, warmup=3.5, first_epoch=first, horizon=8)
            for epoch in (0.0, 0.25, 0.5 * epochs, float(epochs)):
                assert part.factor(epoch) == pytest.approx(whole.factor(first + epoch)), (ends, first, epoch)
            first += epochs
    again = Stretch(8, schedule, warmup=3.5, first_epoch=8, horizon=16, rises_from=8)
    assert again.factor(1.75) / Stretch(8, schedule, first_epoch=8, horizon=16).factor(1.75) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"momentum": 1.0}, {"batch_size": 0}, {"optimizer": "lion"}])
def test_options_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=f"option '{next(iter(bad))}' is "):
        TrainOptions(**bad)  # type: ignore[arg-type]


def test_evaluation_agrees_with_the_mean_loss() -> None:
    graph, task = dropping(), problem()
    loss, accuracy = evaluate(graph, task, task.test)
    assert loss == pytest.approx(mean_loss(graph, task, task.test))
    assert accuracy is not None and 0 <= accuracy <= 1 and (accuracy * 60) == pytest.approx(round(accuracy * 60))


def test_a_regression_has_no_accuracy_and_single_logits_have_one() -> None:
    x = torch.randn(64, 5)
    net = from_torch(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)), x)
    regression = Problem((x, x.sum(1, keepdim=True)), loss="mse", device="cpu")
    trained = Trainer(regression, options()).train(net, Stretch(2))
    assert trained.epochs[0].accuracy is None and evaluate(trained.graph, regression, regression.test)[1] is None
    answers = Problem((x, (x.sum(1, keepdim=True) > 0).float()), loss="bce-with-logits", device="cpu")
    learned = Trainer(answers, options()).train(net, Stretch(10)).graph
    accuracy = evaluate(learned, answers, answers.test)[1]
    assert accuracy is not None and accuracy > 0.8
