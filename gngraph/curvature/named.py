"""Losses by name."""

from __future__ import annotations

from gngraph.curvature.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from gngraph.curvature.positions import NextToken, Segmentation
from gngraph.errors import GnGraphError

LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (CrossEntropy(), Segmentation(), NextToken(), MeanSquaredError(), BinaryCrossEntropy())
}


def loss_named(name: str) -> Loss:
    """The loss in `LOSSES` with this name; raises GnGraphError that lists the names for any other.

    >>> loss_named("mse")
    MeanSquaredError()
    """
    if name not in LOSSES:
        raise GnGraphError(f'unknown loss "{name}": choose one of {", ".join(LOSSES)}')
    return LOSSES[name]
