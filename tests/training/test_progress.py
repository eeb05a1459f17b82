"""Training that is interrupted between any two steps goes on to the same weights, history and optimiser state, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.options.training import OptimizerName, TrainPrecision
from gngraph.running.problem import Problem
from gngraph.training import training
from gngraph.training.optimizer_state import OptimizerState
from gngraph.training.progress import EpochRecord, Progress, Watch
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trained, Trainer
from tests.problems import digits, dropping, small_vgg


def augmented() -> Problem:
    return Problem(digits(120, 24), augment="crop,erasing,mixup{p=0.7}", device="cpu", batch_size=32)


def without_seconds(epochs: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [replace(epoch, seconds=0.0) for epoch in epochs]


def assert_same_state(a: OptimizerState, b: OptimizerState) -> None:
    assert a.powers == b.powers and a.entries.keys() == b.entries.keys()
    for name, entries in a.entries.items():
        assert entries.keys() == b.entries[name].keys()
        assert all(torch.equal(value, b.entries[name][key]) for key, value in entries.items())


def assert_same(a: Trained, b: Trained) -> None:
    assert all(torch.equal(p.data, b.graph.params[name].data) for name, p in a.graph.params.items())
    assert without_seconds(a.epochs) == without_seconds(b.epochs)
    assert_same_state(a.state, b.state)


@pytest.mark.parametrize(
    ("build", "optimizer", "precision"), [(dropping, "adamw", "fp16"), (small_vgg, "sgd", "float32")]
)
def test_training_goes_on_from_any_step(
    build: Callable[[], Graph], optimizer: OptimizerName, precision: TrainPrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECK_EVERY", 2)  # losses are summed up in pieces, of which some are left open
    graph, stretch = build(), Stretch(2, "cosine", warmup=0.5, first_epoch=3)
    trainer = Trainer(augmented(), TrainOptions(optimizer, batch_size=32, precision=precision))
    before = trainer.train(graph, Stretch(1)).state
    kept: list[Progress] = []
    whole = trainer.train(graph, stretch, before, watch=Watch(lambda epoch_ended: True, kept.append))
    assert [(len(p.epochs), p.part.steps if p.part else 0) for p in kept] == [
        *((0, step) for step in (1, 2, 3)), (1, 0), *((1, step) for step in (1, 2, 3)), (2, 0),
    ]  # fmt: skip
    assert_same(whole, trainer.train(graph, stretch, before))
    for progress in kept:
        torch.rand(3)  # what others draw meanwhile does not matter
        assert_same(whole, trainer.train(graph, stretch, before, done=progress))
