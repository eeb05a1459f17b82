"""Samples that no loss can be told of are named, and one of the test samples does not lose a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from gngraph.api import grow
from gngraph.data import Data
from gngraph.data.dataset import ArrayDataset
from gngraph.errors import DataError
from gngraph.importing.from_torch import from_torch
from gngraph.options import GrowOptions, TrainOptions
from gngraph.running.finite import standing
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import digits, problem, seed_graph

OPTIONS = GrowOptions(max_params=3000, rounds=1, epochs=1, final_epochs=1, depth="keep")


class Own(Dataset[tuple[torch.Tensor, int]]):
    """A user's own data set, read a sample at a time."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.x[row], row % 3


class Both:
    """Training samples of a user's own."""

    def __init__(self, train: Dataset[object]) -> None:
        self.train = train


def numbers(bad: float) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(90, 4)
    x[17, 2] = bad
    return x


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tensors_are_checked_when_they_are_given(bad: float) -> None:
    with pytest.raises(DataError, match=rf"'x' holds '{bad}' in sample 17 \(1 of 90 samples"):
        Problem((numbers(bad), torch.arange(90) % 3), device="cpu")
    y = torch.zeros(90)
    y[4] = bad
    with pytest.raises(DataError, match=f"'y' holds '{bad}' in sample 4"):
        Problem((torch.randn(90, 4), y), loss="mse", device="cpu")


@pytest.mark.parametrize("kind", [Own, lambda x: TensorDataset(x, torch.arange(90) % 3)])
def test_a_sample_of_a_data_set_is_named_before_or_while_it_is_trained_on(
    kind: Callable[[torch.Tensor], Dataset[object]],
) -> None:
    x = numbers(float("nan"))
    task, graph = Problem(Both(kind(x)), device="cpu"), from_torch(net(), x[:2])
    with pytest.raises(DataError, match="sample 17 of the training data holds 'nan' in its inputs: repair or drop it"):
        Trainer(task, TrainOptions(batch_size=16)).train(graph, Stretch(1))
    with pytest.raises(DataError, match="sample 17 of the training data holds 'nan' in its inputs"):
        grow(graph, task, OPTIONS)


def test_a_number_that_overflows_is_named_with_its_size() -> None:
    x = numbers(3e38)
    task, graph = Problem((x, torch.arange(90) % 3), device="cpu"), from_torch(net(), x[:2])
    with pytest.raises(
        DataError, match=r"sample 17 of the training data has no finite loss in network .* reach 3e\+38\)"
    ):
        Trainer(task, TrainOptions(batch_size=16)).train(graph, Stretch(1))


def test_one_extreme_test_sample_is_left_out_and_told_of() -> None:
    data = digits()
    assert isinstance(data.test, ArrayDataset)
    raw = data.test.raw.float().clone()
    raw[7, 0, 3, 3] = 3e38
    task = Problem(
        Data("digits", data.train, ArrayDataset(raw, data.test.labels, data.preprocess), data.classes, data.preprocess),
        device="cpu",
    )
    result = grow(seed_graph(), task, OPTIONS)
    notes = [note for record in result.history for note in record.get("notes", ())]
    assert any("1 of 60 test samples are not counted" in note and "sample 7 of the test" in note for note in notes)
    assert 0 < result.history[-1]["loss"] < 10


def test_a_loss_that_is_never_finite_is_not_put_on_a_sample() -> None:
    x = numbers(0.0)
    task = Problem((x, torch.arange(90) % 3), loss=lambda outputs, y: outputs.sum(1) * float("nan"), device="cpu")
    with pytest.raises(DataError, match=r"loss '<lambda>' is not finite for any of \d+ samples in network"):
        Trainer(task, TrainOptions(batch_size=16)).train(from_torch(net(), x[:2]), Stretch(1))


def test_finite_samples_are_all_counted() -> None:
    found = standing(seed_graph(), problem())
    assert found.note is None and found.accuracy is not None
