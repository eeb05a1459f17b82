"""Data comes in as people have it in Python: data sets, pairs and dictionaries of them, loaders, arrays, and rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from gngraph.api import grow
from gngraph.data.given import given
from gngraph.errors import DataError, GnGraphNote
from gngraph.importing.from_torch import from_torch
from gngraph.options import GrowOptions, TrainOptions
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer, batch_of

COUNT = 90


class Shifted(Dataset[tuple[torch.Tensor, int]]):
    """Samples with a transform, as users write them."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        x = torch.zeros(4)
        x[row % 3] = 1.0
        return x + 0.1, row % 3


class Table:
    """Rows with names, as Hugging Face's `datasets` has them."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns, self.column_names = columns, list(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: values[row] for name, values in self.columns.items()}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def learned(data: Any, **options: Any) -> float:
    """Training loss after a few epochs."""
    problem = Problem(data, device="cpu", **options)
    graph = from_torch(net(), problem.train[0][0].unsqueeze(0).repeat(2, 1))
    return Trainer(problem, TrainOptions()).train(graph, Stretch(20)).epochs[-1].loss


def test_a_loader_stands_for_its_data_set_and_keeps_its_batch_size() -> None:
    problem = Problem(DataLoader(Shifted(), batch_size=10, shuffle=True), device="cpu")
    assert batch_of(TrainOptions(), problem) == 10 and batch_of(TrainOptions(batch_size=7), problem) == 7
    assert batch_of(TrainOptions(), Problem(Shifted(), device="cpu")) == 128
    assert problem.train[0][0][3] == pytest.approx(0.1)  # the transform
    assert learned(DataLoader(Shifted(), batch_size=10, shuffle=True)) < 0.5


def test_pairs_and_dictionaries_have_test_samples() -> None:
    for data in ((Shifted(), Shifted()), {"train": Shifted(), "test": DataLoader(Shifted())}):
        problem = Problem(data, device="cpu")
        assert (problem.tested, len(problem.test)) == ("test", COUNT)
    parts = given({"train": Shifted(), "validation": Shifted()})
    assert parts is not None and parts.validation is not None and parts.test is None


def test_workers_of_a_loader_read() -> None:
    problem = Problem(DataLoader(Shifted(), batch_size=30, num_workers=1), device="cpu")
    assert len(next(problem.runner.read(problem.train, from_torch(net(), torch.zeros(2, 4))))[0]) == len(problem.train)


def test_a_list_of_samples_is_a_data_set() -> None:
    pairs = [Shifted()[row] for row in range(COUNT)]
    tensors = [(x, torch.tensor(y)) for x, y in pairs]
    named = [{"x": x, "label": y} for x, y in tensors]
    assert learned(pairs) < 0.8 and learned(tensors) < 0.8
    assert len(Problem((tensors[:80], tensors[80:]), device="cpu").test) == 10
    result = grow(net(), named, GrowOptions(max_params=100, rounds=1, epochs=1, final_epochs=1, depth="keep"))
    assert result.graph.num_params() > from_torch(net(), torch.zeros(2, 4)).num_params()


def test_arrays_are_tensors() -> None:
    x = np.random.default_rng(0).normal(size=(COUNT, 4))
    problem = Problem((x, x.argmax(1) % 3), device="cpu")
    assert problem.train[0][0].dtype == torch.float32
    assert learned((x, np.argmax(x[:, :3], 1))) < 1.0


def test_rows_of_numbers_with_names_are_samples() -> None:
    draws = np.random.default_rng(0).normal(size=(COUNT, 4))
    columns = {name: draws[:, i].tolist() for i, name in enumerate("abcd")}
    table = Table(**columns, label=draws[:, :3].argmax(1).tolist())
    assert learned({"train": table, "test": table}) < 1.0
    result = grow(
        net(), {"train": table, "test": table}, GrowOptions(max_params=100, rounds=1, epochs=1, final_epochs=1)
    )
    assert result.history[-1]["tested"] == "test"


def test_pictures_in_a_table_are_tensors_with_channels_first() -> None:
    found = given(Table(image=[Image.new("RGB", (5, 4), (255, 0, 0))] * 3, label=[0, 1, 2]))
    assert found is not None
    x, y = found.train[0]
    assert x.shape == (3, 4, 5) and x[0].min() == 1 and x[1].max() == 0 and y == 0


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


REFUSED = {
    "a stream": (Stream(), r"a 'Stream' has no length or cannot be indexed"),
    "joined otherwise": (
        DataLoader(Shifted(), collate_fn=lambda rows: rows),
        r"the loader joins samples by a function of its own, '<lambda>'",
    ),
    "text": (
        Table(text=["a", "b"], label=[0, 1]),
        r"column 'text' of the data holds a 'str': turn it into numbers first",
    ),
    "no targets": (Table(a=[1, 2], b=[0, 1]), r"the columns a, b, of which none is called label"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence(case: str) -> None:
    data, text = REFUSED[case]
    with pytest.raises(DataError, match=text):
        Problem(data, device="cpu").samples[0]


def test_a_sampler_that_is_not_used_is_told_of() -> None:
    loader = DataLoader(Shifted(), sampler=WeightedRandomSampler([1.0] * COUNT, COUNT))
    with pytest.warns(GnGraphNote, match="the loader's 'WeightedRandomSampler' is not used"):
        Problem(loader, device="cpu")


def test_a_tensor_data_set_stays_in_memory() -> None:
    samples = TensorDataset(torch.zeros(6, 2), torch.zeros(6))
    found = given(DataLoader(samples))
    assert found is not None and found.train is samples
