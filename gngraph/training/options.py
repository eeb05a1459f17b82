"""How networks are trained: the choices of a run, and the stretches of training that it consists of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gngraph.errors import TrainingError

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["constant", "cosine"]

RATES: Mapping[str, float] = {"sgd": 0.1, "adamw": 2e-3}
"""Learning rate of each optimiser where none is given; they suit small networks with BatchNorm."""

SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine")

Final = Literal["continue", "cycle", "retrain"]
FINALS: Mapping[Final, str] = {
    "continue": "one cosine over the whole run: the rate falls from the first epoch, through every rewrite, to the last",
    "cycle": "a constant rate up to the last rewrite, then a cosine from the full rate down to 0",
    "retrain": "as cycle, but the grown architecture starts afresh after the last rewrite, from new initial weights",
}
"""What the training after the last rewrite is, and what that means for the rate before it."""

PERTURB = 0.3
"""Share of new initial weights that growth mixes into a network after a rewrite; see `gngraph.training.perturbation`."""

Depth = Literal["search", "keep"]
DEPTHS: tuple[Depth, ...] = ("search", "keep")
"""What becomes of the layers of a network that grows: some may go first (`gngraph.search.depth`), or all stay."""


@dataclass(frozen=True)
class TrainOptions:
    """How every stretch of a run is trained.

    Attributes:
        optimizer: "sgd" (with Nesterov momentum) or "adamw".
        lr: learning rate; None: that of `RATES`.
        momentum: of SGD; AdamW keeps torch's own coefficients.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW.
        batch_size: samples a step.
        warmup: epochs over which the rate rises linearly from 0, once, at the start of the run.

    Raises:
        TrainingError: a value is out of range.

    >>> TrainOptions(optimizer="adamw").rate
    0.002
    """

    optimizer: OptimizerName = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in RATES:
            raise TrainingError(f"optimiser '{self.optimizer}' is unknown; choose one of {', '.join(RATES)}")
        ranges = {
            "lr": 0 < self.rate < math.inf,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "batch_size": self.batch_size >= 1,
            "warmup": 0 <= self.warmup < math.inf,
        }
        for name, fits in ranges.items():
            if not fits:
                raise TrainingError(f"training option '{name}' cannot be '{getattr(self, name)}': it is out of range")

    @property
    def rate(self) -> float:
        """The learning rate in force: `lr`, or the optimiser's own default."""
        return RATES[self.optimizer] if self.lr is None else self.lr

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser of `parameters`."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=self.rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.momentum > 0,
            )
        return torch.optim.AdamW(parameters, lr=self.rate, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Stretch:
    """An unbroken stretch of training.

    Attributes:
        epochs: passes over the training set; 0 trains nothing.
        schedule: "constant", or "cosine" from the full rate down to 0.
        warmup: epochs over which the rate rises linearly from 0.
        first_epoch: epochs that the run trained before; with the seed it decides the order of the samples.
        horizon: epochs of the whole run over which the cosine falls; None: it falls over this stretch alone.

    >>> [round(Stretch(2, "cosine").factor(epoch), 3) for epoch in (0.0, 0.5, 1.0, 2.0)]
    [1.0, 0.854, 0.5, 0.0]
    >>> [round(Stretch(2, "cosine", first_epoch=2, horizon=4).factor(epoch), 3) for epoch in (0.0, 1.0, 2.0)]
    [0.5, 0.146, 0.0]
    """

    epochs: int
    schedule: Schedule = "constant"
    warmup: float = 0.0
    first_epoch: int = 0
    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise TrainingError(f"'{self.epochs}' epochs cannot be trained; give 0 or more")
        if self.horizon is not None and self.first_epoch + self.epochs > self.horizon:
            raise TrainingError(
                f"a cosine over '{self.horizon}' epochs ends before epoch {self.first_epoch + self.epochs}, where the "
                f"stretch does"
            )
        if self.schedule not in SCHEDULES:
            raise TrainingError(f"schedule '{self.schedule}' is unknown; choose one of {', '.join(SCHEDULES)}")

    def factor(self, epoch: float) -> float:
        """Share of the full learning rate after `epoch` epochs of the stretch, fractions included."""
        rising = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return rising
        done, whole = (epoch, self.epochs) if self.horizon is None else (self.first_epoch + epoch, self.horizon)
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, done / whole)))
