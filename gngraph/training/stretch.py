"""The stretches of training that a run consists of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gngraph.errors import TrainingError

Schedule = Literal["constant", "cosine"]

SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine")


@dataclass(frozen=True)
class Stretch:
    """An unbroken stretch of training.

    Attributes:
        epochs: passes over the training set; 0 trains nothing.
        schedule: "constant", or "cosine" from the full rate down to 0.
        warmup: epochs over which the rate rises linearly from 0; a stretch that ends before leaves the rest to the next.
        first_epoch: epochs that the run trained before; with the seed it decides the order of the samples.
        horizon: epochs of the whole run over which the cosine falls; None: it falls over this stretch alone.
        rises_from: epoch of the run at which the rate began to rise.
        share: of the full rate, that all of it is trained at.
        patience: epochs without a lower loss on the judge split after which it ends; None: it does not end early.

    >>> [round(Stretch(2, "cosine").factor(epoch), 3) for epoch in (0.0, 0.5, 1.0, 2.0)]
    [1.0, 0.854, 0.5, 0.0]
    >>> [round(Stretch(2, "cosine", first_epoch=2, horizon=4).factor(epoch), 3) for epoch in (0.0, 1.0, 2.0)]
    [0.5, 0.146, 0.0]
    >>> [Stretch(2, warmup=4, first_epoch=2).factor(epoch) for epoch in (0.0, 1.0, 2.0)]
    [0.5, 0.75, 1.0]
    """

    epochs: int
    schedule: Schedule = "constant"
    warmup: float = 0.0
    first_epoch: int = 0
    horizon: int | None = None
    rises_from: int = 0
    share: float = 1.0
    patience: int | None = None

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
        risen = self.first_epoch + epoch - self.rises_from
        rising = self.share * (min(1.0, risen / self.warmup) if self.warmup else 1.0)
        if self.schedule == "constant":
            return rising
        done, whole = (epoch, self.epochs) if self.horizon is None else (self.first_epoch + epoch, self.horizon)
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, done / whole)))
