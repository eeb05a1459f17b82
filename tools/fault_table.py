"""What the tables of faults have in common: a fault, data and networks to go wrong, and the commands that they go wrong in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.cli import main
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.options import TrainOptions
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

SAMPLES, FEATURES, CLASSES = 400, 6, 3

FACTORIES = """
import sys, torch
from torch import nn
def net(outputs=3, *more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, outputs), *more)
def number():
    return net(1)
def softened():
    return net(1, nn.LeakyReLU())
def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
def ending():
    sys.exit(3)
def failing():
    raise ZeroDivisionError('division by zero')
def nothing():
    return 42
"""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and how that must end.

    Attributes:
        name: in a few words.
        act: makes it go wrong in an empty folder, where data and networks are; returns the exit status of the command.
        status: that it must end with.
        says: pattern that what was printed must hold.
    """

    name: str
    act: Callable[[], int]
    status: int
    says: str


FAULTS: list[Fault] = []


def fault(status: int, says: str) -> Callable[[Callable[[], int]], Callable[[], int]]:
    """Add a fault to the table, by the name that its docstring gives it."""

    def decorate(act: Callable[[], int]) -> Callable[[], int]:
        told = (act.__doc__ or "").rstrip(".")
        FAULTS.append(Fault(told[:1].lower() + told[1:], act, status, says))
        return act

    return decorate


def command(*words: str) -> int:
    """The exit status of a command line."""
    try:
        main(list(words))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def write(target: str = "class", **changes: tuple[tuple[Any, ...], float]) -> None:
    """Write data.npz with samples that can be learned.

    Args:
        target: "class" or "number".
        changes: array -> an entry of it, and what it becomes.
    """
    draws = np.random.default_rng(0)
    x = draws.normal(size=(SAMPLES, FEATURES)).astype("float32")
    y = (x[:, :CLASSES].argmax(1) if target == "class" else (x[:, 0] + np.abs(x[:, 1]))[:, None]).astype(
        "int64" if target == "class" else "float32"
    )
    cut = SAMPLES * 3 // 4
    arrays = {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}
    for name, (place, value) in changes.items():
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value
    np.savez("data.npz", **arrays)


def scaled(mean: float, deviation: float) -> None:
    """Write data.npz with the targets of a regression in other units."""
    write("number")
    found = dict(np.load("data.npz"))
    for name in ("y_train", "y_test"):
        found[name] = (mean + deviation * found[name]).astype("float32")
    np.savez("data.npz", **found)


def train(network: str = "nets:net", *more: str) -> int:
    """`gngraph train` for some epochs."""
    return command("train", network, "--data", "data.npz", "--epochs", "4", "-o", "trained.gng", *more)


GROW = (
    "--data",
    "data.npz",
    "--max-params",
    "600",
    "--rounds",
    "1",
    "--epochs",
    "2",
    "--final-epochs",
    "3",
    "--batch-size",
    "32",
)


def grow(network: str = "nets:net", *more: str) -> int:
    """`gngraph grow` of one round."""
    return command("grow", network, *GROW, "--depth", "keep", "-o", "run", *more)


def told(work: Callable[[], object]) -> int:
    """The exit status of work in Python: a refusal is printed, as the command line does."""
    try:
        work()
    except GnGraphError as error:
        print(f"refused: {error}")
        return 1
    return 0


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and labels of the data."""
    write()
    found = np.load("data.npz")
    return torch.from_numpy(found["x_train"]), torch.from_numpy(found["y_train"])


def network(outputs: int = CLASSES) -> nn.Module:
    """A small network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 12), nn.ReLU(), nn.Linear(12, outputs))


class Own(Dataset[Any]):
    """A user's own data set."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[row], self.y[row]


class Both:
    """A user's own samples to train on."""

    def __init__(self, train: Dataset[Any]) -> None:
        self.train = train


def trained(x: torch.Tensor, y: torch.Tensor, **options: Any) -> int:
    """Training on a data set of the user's own, in Python."""
    problem = Problem(Both(Own(x, y)), device="cpu", **options)
    outputs = 1 if y.is_floating_point() else CLASSES
    return told(lambda: Trainer(problem, TrainOptions()).train(from_torch(network(outputs), x[:2]), Stretch(2)))
