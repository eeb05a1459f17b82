"""Tiny problems and seed networks of the growth tests."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from gngraph.data import Data, load_data
from gngraph.data.dataset import ArrayDataset
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.zoo import build_seed


def digits(train: int = 240, test: int = 60) -> Data:
    """The first handwritten digits, 1 x 8 x 8, for a test to change as it likes."""
    whole = _digits()
    assert isinstance(whole.train, ArrayDataset) and isinstance(whole.test, ArrayDataset)
    parts = [
        ArrayDataset(part.raw[:count].clone(), part.labels[:count].clone(), part.preprocess)
        for part, count in ((whole.train, train), (whole.test, test))
    ]
    return Data("digits", parts[0], parts[1], whole.classes, whole.preprocess)


@cache
def _digits() -> Data:
    return load_data("digits")


def problem(seed: int = 0, batch_size: int = 32) -> Problem:
    return Problem(digits(), device="cpu", seed=seed, batch_size=batch_size)


@cache
def seed_graph(name: str = "mlp", width: float = 0.03, seed: int = 0) -> Graph:
    """A network of the zoo for the digits."""
    return from_torch(
        build_seed(name, width=width, classes=10, input_shape=(1, 8, 8), seed=seed), torch.zeros(2, 1, 8, 8)
    )


def small_vgg() -> Graph:
    """Convolutions with BatchNorm, 8 x 8 digits."""
    return seed_graph("vgg11", 1 / 64)


class Dropping(nn.Module):
    """Dropout, BatchNorm, and one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 12)
        self.norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.3)
        self.inner = nn.Linear(12, 12, bias=False)
        self.again = nn.Linear(12, 12, bias=False)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.norm(self.first(x.flatten(1)))))
        x = torch.relu(self.again(torch.relu(self.inner(x))))
        y: torch.Tensor = self.head(x)
        return y


@cache
def dropping() -> Graph:
    torch.manual_seed(0)
    return from_torch(Dropping(), torch.zeros(2, 1, 8, 8))
