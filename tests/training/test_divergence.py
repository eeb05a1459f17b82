"""Training that leads nowhere stops with the cause, and after a rewrite is tried once more at half the rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gngraph.api import grow
from gngraph.errors import TrainingError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.options import GrowOptions, TrainOptions
from gngraph.running.problem import Problem
from gngraph.training.divergence import Course, DivergedError, constant_of
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trained, Trainer
from tests.problems import problem, seed_graph

OPTIONS = GrowOptions(
    max_params=3000, rounds=1, epochs=1, final_epochs=2, depth="keep", train=TrainOptions(lr=0.05, batch_size=32)
)


def prices(net: nn.Module) -> tuple[Graph, Problem]:
    torch.manual_seed(1)
    x = torch.randn(400, 4)
    y = 1e4 + 3e3 * (x[:, :1] + x[:, 1:2].abs())
    return from_torch(net, x[:2]), Problem((x, y), loss="mse", device="cpu")


def softened() -> nn.Module:
    """A last layer that no other units can be told of."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1), nn.LeakyReLU())


def test_a_loss_far_above_the_best_constant_stops_with_the_cause() -> None:
    graph, task = prices(softened())
    text = (
        r"training diverged: after \d epochs? the loss is .*, where the best constant output has .*, at a learning rate of "
        r"'0.0001', and the targets have the size 1.*e\+04: scale them to about 1; lower it"
    )
    with pytest.raises(DivergedError, match=text):
        Trainer(task, TrainOptions(lr=1e-4, batch_size=32)).train(graph, Stretch(4))


def test_a_loss_that_is_not_finite_has_its_cause_named_too() -> None:
    graph, task = prices(softened())
    with pytest.raises(
        DivergedError, match=r"became 'inf' at step .* '0.1', and the targets have the size 1.*: scale them"
    ):
        Trainer(task, TrainOptions(batch_size=32)).train(graph, Stretch(4))


def test_a_classifier_that_is_thrown_far_off_is_stopped_while_its_loss_is_finite() -> None:
    with pytest.raises(
        DivergedError, match=r"training diverged: after 1 epoch the loss is .*, where the best constant"
    ):
        Trainer(problem(), TrainOptions(lr=30, batch_size=32)).train(seed_graph(), Stretch(20))


def test_a_start_far_off_that_is_made_up_for_is_no_divergence() -> None:
    graph, task = prices(softened())
    trained = Trainer(task, TrainOptions(lr=1e-9, batch_size=32)).train(graph, Stretch(2))
    assert trained.epochs[-1].loss > 1e7  # it hardly moved, from where it was


def test_a_loss_that_rises_without_end_is_stopped() -> None:
    task = problem()
    course = Course(seed_graph(), task, 0.1, constant_of(seed_graph(), task, to_torch(seed_graph())))
    course.check([2.4, 2.5, 2.6], seed_graph)
    course.check([0.1, 0.2, 0.3, 0.4], seed_graph)  # below what a constant output has: it may overfit
    with pytest.raises(DivergedError, match=r"the loss rose in 3 epochs one after the other, to 2.7"):
        course.check([2.4, 2.5, 2.6, 2.7], seed_graph)


def diverging(times: int, seen: list[float]) -> Callable[..., Trained]:
    """Training that diverges some times after the first rewrite."""
    honest = Trainer.train

    def train(self: Trainer, graph: Graph, stretch: Stretch, *others: Any, **named: Any) -> Trained:
        seen.append(stretch.share)
        if 1 < len(seen) <= 1 + times:
            raise DivergedError("training diverged: after 1 epoch the loss is 99")
        return honest(self, graph, stretch, *others, **named)

    return train


def test_after_a_rewrite_it_is_trained_once_more_at_half_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Trainer, "train", diverging(1, seen))
    result = grow(seed_graph(), problem(), OPTIONS)
    assert seen == [1.0, 1.0, 0.5]
    (note,) = result.history[-1]["notes"]
    assert "the loss is 99; that was since the last rewrite (" in note and "half the rate" in note
    assert result.history[-1]["epochs"][0]["lr"] < 0.025


def test_what_diverges_again_ends_with_the_morphisms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train", diverging(2, []))
    with pytest.raises(TrainingError, match=r"since the last rewrite \(\S+: \d+ .*\), at half the rate once more"):
        grow(seed_graph(), problem(), OPTIONS)
