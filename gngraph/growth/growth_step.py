"""`GrowthStep`: what a step of a `Grower` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gngraph.analysis.cost import Cost
from gngraph.growth.history import Record


@dataclass(frozen=True)
class GrowthStep:
    """What a step does to a network, or would do; false where that is nothing.

    Attributes:
        number: of the step, from 1.
        before, after: parameters and FLOPs.
        widths: channel space -> its width before and after, where they differ.
        morphisms: what is done, by space and kind.
        predicted, actual: change of the mean loss on held-out samples of the training set by what was learned: as the Gauss-Newton
            model predicts it (with its standard error `error`), and measured.
        loss, loss_after: mean loss on these samples before and after the step. Running statistics of BatchNorm are measured anew
            for both; those of the network itself stay as they are, and follow its channels.
        refused: why what was learned is not done, or why nothing is; None where all is done.
        notes: what else a user should know.
    """

    number: int
    before: Cost
    after: Cost
    widths: Mapping[str, tuple[int, int]]
    morphisms: Mapping[str, Record]
    predicted: float = 0.0
    error: float = 0.0
    actual: float = 0.0
    loss: float = math.nan
    loss_after: float = math.nan
    refused: str | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.morphisms)

    def __str__(self) -> str:
        widths = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in self.widths.items()) or "widths stay"
        return (
            f"step {self.number}: {self.before.params:,} -> {self.after.params:,} parameters ({widths}), "
            f"loss {self.loss:.4g} -> {self.loss_after:.4g}" + (f"; refused: {self.refused}" if self.refused else "")
        )
