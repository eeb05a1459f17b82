"""Which samples networks are trained on, judged by and tested on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from gngraph import from_torch
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import Data, HeldDataset, MapDataset
from gngraph.errors import DataError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.morphing import morph
from gngraph.running.evaluation import evaluate, sample_losses
from gngraph.running.problem import TRAINED, Problem, inputs_of, knows_withheld
from gngraph.running.together import Together
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.chance import may_know
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import digits, seed_graph


def data(train: int, test: int = 0, seed: int = 0) -> Any:
    """Samples whose input is their number."""
    x = torch.arange(train + test, dtype=torch.float32)[:, None].repeat(1, 4)
    y = torch.arange(train + test) % 3
    parts = [TensorDataset(x[:train], y[:train]), TensorDataset(x[train:], y[train:])]
    return SimpleNamespace(train=parts[0], test=parts[1] if test else None)


def numbers(samples: Any) -> set[int]:
    return {int(samples[i][0][0]) for i in range(len(samples))}


def test_nothing_is_trained_on_what_changes_are_judged_by() -> None:
    task = Problem(data(1000, 50), device="cpu")
    learn, judge, report = (numbers(split) for split in task.splits)
    assert (len(judge), len(report), len(task.train), task.withheld) == (75, 75, 850, 150)
    assert (
        not judge & report and numbers(task.train) == set(range(1000)) - judge - report and learn <= numbers(task.train)
    )
    assert numbers(task.test) == set(range(1000, 1050)) and task.tested == "test"
    assert numbers(task.undivided.train) == set(range(1000)) and task.undivided.splits is task.splits
    seen = list[int]()

    class Spied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.norm(x))
            return y

    graph, read = from_torch(Spied(), torch.randn(2, 4)), task.runner.read_to_train

    def spied(samples: MapDataset, *args: Any, **options: Any) -> Any:
        for x, y in read(samples, *args, **options):
            seen.extend(x[:, 0].long().tolist())
            yield x, y

    task.runner.read_to_train = spied  # type: ignore[method-assign]
    Trainer(task, TrainOptions()).train(graph, Stretch(1))
    assert set(seen) == numbers(task.train)


def test_what_is_withheld_is_the_same_for_every_seed_and_more_of_it_holds_less() -> None:
    def withheld(**options: Any) -> set[int]:
        task = Problem(data(600, 50), device="cpu", **options)
        return numbers(task.splits.judge) | numbers(task.splits.report)

    first = Problem(data(600, 50), device="cpu")
    other = Problem(data(600, 50), device="cpu", seed=7)
    assert withheld() == withheld(seed=7) and numbers(first.splits.judge) != numbers(other.splits.judge)
    assert withheld(judge=20, report=20, seed=3) < withheld() < withheld(judge=100, report=60)


def test_few_samples_are_withheld_of_few_and_none_of_too_few() -> None:
    sizes = {count: Problem(data(count), device="cpu").withheld for count in (23, 24, 120, 300, 5000)}
    assert sizes == {23: 0, 24: 16, 120: 40, 300: 64, 5000: 750}
    few = Problem(data(23), device="cpu")
    assert len(few.train) == 23 and not few.divisible
    with pytest.raises(DataError, match="training set of '23' samples"):
        _ = few.splits


def test_named_samples_are_judged_by_and_all_others_are_trained_on() -> None:
    others = data(40).train
    for unseen in (others, others.tensors):
        task = Problem(data(200, 50), device="cpu", unseen=unseen)
        assert len(task.train) == 200 and (len(task.splits.judge), len(task.splits.report)) == (20, 20)
        assert all(root(split) is not task.samples for split in (task.splits.judge, task.splits.report))
        assert task.undivided is task and not task.withholds
    own = data(200, 50)
    own.validation = others
    assert Problem(own, device="cpu").unseen is others
    again = Problem(own, device="cpu", unseen="withheld")
    assert again.withheld == 64 and again.withholds
    part = task.trained_on(task.splits.learn)
    assert part.splits is task.splits and part.train is task.splits.learn


def root(samples: Subset[Any]) -> Any:
    return samples.dataset


def test_test_samples_and_training_samples_judge_nothing() -> None:
    own = data(200, 50)
    for part, unseen in (("training", own.train), ("test", own.test)):
        with pytest.raises(DataError, match=f"the {part} samples are named as unseen"):
            Problem(own, device="cpu", unseen=unseen)
    for wrong in ("validation", 5):
        with pytest.raises(
            DataError, match=f"not seen is '{'validation' if wrong == 'validation' else 'int'}': give a data set"
        ):
            Problem(own, device="cpu", unseen=wrong)
    with pytest.raises(DataError, match="set of unseen samples of '15' samples is too small"):
        _ = Problem(own, device="cpu", unseen=data(15).train).splits


@pytest.mark.parametrize("named", ["pair", "no test", "the same"])
def test_without_test_samples_held_out_ones_are_measured_on(named: str) -> None:
    own = data(300)
    given = {"pair": own.train.tensors, "no test": own, "the same": SimpleNamespace(train=own.train, test=own.train)}[
        named
    ]
    task = Problem(given, device="cpu")
    assert task.tested == "held-out" and task.test is task.splits.report and task.undivided is task
    assert not numbers(task.test) & numbers(task.train)
    loss, accuracy = evaluate(from_torch(nn.Linear(4, 3), torch.zeros(2, 4)), task, task.test)
    assert accuracy is not None and loss > 0


def memorised(task: Problem) -> Graph:
    return (
        Trainer(task, TrainOptions(optimizer="adamw", batch_size=32)).train(seed_graph("mlp", 0.1), Stretch(60)).graph
    )


def noisy(count: int) -> Any:
    """Digits that cannot be told apart without error, and as many others."""
    whole = digits(count, 300)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for part in (whole.train, whole.test):
        x = part.preprocess(part.stored(range(len(part))))
        parts.append(TensorDataset(x + 1.5 * torch.randn(x.shape, generator=generator), part.labels))
    return SimpleNamespace(train=parts[0], test=parts[1])


def test_predictions_for_a_network_that_knows_its_samples_by_heart_hold_for_others() -> None:
    own = noisy(400)
    task = Problem(own, device="cpu", judge=64, report=64)
    graph = memorised(task)
    assert evaluate(graph, task, task.train)[1] > 0.99  # type: ignore[operator]

    def coverage(judged: Problem) -> float:
        analyses = AnalysisManager(judged)
        scores = analyses.get(GaussNewton(kinds=("prune",)), graph)
        spaces = analyses.get(ChannelSpaces, graph)
        others = [morph(graph, spaces, [candidate.morphism]).graph for candidate in scores.candidates]
        losses = sample_losses(Together([graph, *others], judged.runner.function), judged, own.test)
        actual, noise = (losses[1:] - losses[0]).mean(1), (losses[1:] - losses[0]).std(1) / len(own.test) ** 0.5
        error = torch.hypot(scores.report.total_errors().double(), noise)
        return float(((actual - scores.report.changes()).abs() <= 1.96 * error).double().mean())

    assert coverage(task) >= 0.9
    trained_on: Any = task.train
    seen = replace(task, unseen=Subset(trained_on, range(128)))  # which it is not
    assert coverage(seen) < 0.8


def test_a_trained_network_that_is_given_may_know_what_it_is_judged_by_unless_it_is_said_not_to() -> None:
    task = Problem(digits(), device="cpu")
    fresh, trained = (
        seed_graph("mlp", 0.1),
        Trainer(task, TrainOptions()).train(seed_graph("mlp", 0.1), Stretch(6)).graph,
    )
    assert not may_know(fresh, task) and may_know(trained, task)
    others = HeldDataset(torch.zeros(30, 1, 8, 8), torch.zeros(30, dtype=torch.int64))
    for unseen in ("withheld", others):
        assert not may_know(trained, replace(task, unseen=unseen))


def test_an_archive_says_what_its_network_was_not_trained_on() -> None:
    whole = digits()
    task = Problem(whole, device="cpu")
    record = inputs_of(task, apart=True)
    assert record is not None and record[TRAINED] == {"data": "digits", "samples": 240, "withheld": 64}
    assert TRAINED not in (inputs_of(task) or {}) and TRAINED in (inputs_of(replace(task, unseen="withheld")) or {})
    assert not knows_withheld(task, record) and not knows_withheld(replace(task, seed=5), record)
    assert not knows_withheld(Problem(whole, device="cpu", judge=16, report=16), record)  # a part of them
    assert knows_withheld(Problem(whole, device="cpu", judge=50, report=50), record)
    for other in (Problem(digits(200), device="cpu"), Problem(replace(whole, name="others"), device="cpu")):
        assert knows_withheld(other, record)
    assert isinstance(whole, Data)
    for nothing in (None, {}, {TRAINED: None}, {TRAINED: {"data": "digits", "samples": 240, "withheld": "many"}}):
        assert knows_withheld(task, nothing)
