"""What a stretch of training gives beside its last weights: their average, or the network of the lowest loss."""

from __future__ import annotations

import pytest
import torch

from gngraph.api import grow
from gngraph.errors import DataError
from gngraph.options import GrowOptions, TrainOptions
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.training.averaging import LAG
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import digits, dropping, problem, seed_graph


def test_the_average_is_that_of_the_weights_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, task = seed_graph(), problem()
    seen = list[dict[str, torch.Tensor]]()
    step = torch.optim.SGD.step

    def kept(self: torch.optim.SGD) -> None:
        step(self)
        seen.append({name: p.detach().clone() for name, p in zip(names, self.param_groups[0]["params"], strict=True)})

    names = [name for name, p in graph.params.items() if p.trainable]
    monkeypatch.setattr(torch.optim.SGD, "step", kept)
    got = Trainer(task, TrainOptions(ema=0.9, batch_size=16)).train(graph, Stretch(3)).graph
    assert len(seen) > 20  # the decay has risen to what was asked for
    for name in names:
        average = graph.params[name].data.double()
        for number, weights in enumerate(seen, 1):
            average = average.lerp(weights[name].double(), 1 - min(0.9, (1 + number) / (LAG + number)))
        torch.testing.assert_close(got.params[name].data.double(), average, rtol=1e-5, atol=1e-6)
        assert not torch.equal(got.params[name].data, seen[-1][name])


def test_a_run_rewrites_measures_and_gives_averages_with_statistics_of_their_own() -> None:
    train = TrainOptions(ema=0.99, batch_size=16)
    options = GrowOptions(max_params=3000, rounds=1, epochs=3, final_epochs=6, depth="keep", perturb=0, train=train)
    result = grow(dropping(), problem(), options)
    loss, accuracy = evaluate(result.graph, problem(), problem().test)
    assert (loss, accuracy) == (result.history[-1]["loss"], result.history[-1]["accuracy"])
    assert accuracy is not None and accuracy > 0.5
    before, after = result.history[0]["trained"]["loss"], result.history[0]["loss"]
    assert after < 1.2 * before  # an average that was lost, or of another shape, would know nothing


def test_training_ends_early_and_gives_the_network_of_the_lowest_loss() -> None:
    task = problem()
    found = Trainer(task, TrainOptions(lr=0.4, momentum=0.0, batch_size=16)).train(
        seed_graph(), Stretch(12, patience=2)
    )
    losses = [epoch.judged for epoch in found.epochs]
    assert None not in losses and len(losses) <= 12
    best = min(loss for loss in losses if loss is not None)
    assert mean_loss(found.graph, task, task.splits.judge) == pytest.approx(best)
    assert len(losses) == 12 or losses.index(best) == len(losses) - 3


def test_only_the_last_stretch_of_a_run_ends_early_and_its_judges_stay_withheld() -> None:
    train = TrainOptions(lr=0.5, batch_size=16, patience=1)
    options = GrowOptions(max_params=3000, rounds=1, epochs=2, final_epochs=20, depth="keep", train=train)
    result = grow(seed_graph(), problem(), options)
    first, last = result.history
    assert len(first["epochs"]) == 2 and all(epoch["judged"] is None for epoch in first["epochs"])
    assert 2 <= len(last["epochs"]) < 20 and last["withheld"] == problem().withheld > 0
    assert last["notes"][0].startswith(
        f"training ended after {len(last['epochs'])} of 20 epochs, and its network is that"
    )
    assert [epoch["epoch"] for epoch in last["epochs"]] == list(range(3, 3 + len(last["epochs"])))
    with pytest.raises(DataError, match="cannot end early by samples that it does not see"):
        few = digits(20)
        grow(seed_graph(), few, options)
