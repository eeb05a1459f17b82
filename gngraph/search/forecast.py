"""Forecasts of the loss after a whole training, from a few short ones of the same network.

Each short training has a schedule of its own, so that what it ends at is what a training of that length comes to, and a few of them
are a learning curve. Its logarithm is taken to be nearly a line in the logarithm of the length: networks that are compared share a
slope, from which each has a deviation of its own, and a bend, which few short trainings cannot tell; and every training has its
luck. All of these are larger where the loss falls faster, so that they are counted in units of the common slope. That is a linear
model with normal priors, and forecast and interval are those of its posterior. How the constants were found, and how often the
intervals held, is in docs/results.md#forecasts; `tools/bench_forecast.py` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean

import torch

from gngraph.errors import TrainingError

SLOWEST = 0.06
"""The least unit: a loss that hardly falls in short trainings falls sooner or later."""

BENDS = 0.11
"""Deviation over problems of the bend of the curve, as a share of the slope."""

OWN = 0.12
"""Deviation of the slopes of networks that are compared, as a share of the common one."""

SCATTER = 0.27
"""Deviation of the logarithm of the loss between trainings of the same length, as a share of the slope."""


@dataclass(frozen=True)
class Forecast:
    """The loss that a training is expected to end at.

    Attributes:
        loss: its median.
        error: standard deviation of its logarithm, the luck of that training included.
    """

    loss: float
    error: float

    def interval(self, share: float = 0.9) -> tuple[float, float]:
        """The least and the greatest loss of the central interval.

        Args:
            share: probability that the loss lies in it.

        >>> tuple(round(loss, 3) for loss in Forecast(1.0, 0.1).interval(0.9))
        (0.848, 1.179)
        """
        width = NormalDist().inv_cdf((1 + share) / 2) * self.error
        return self.loss * math.exp(-width), self.loss * math.exp(width)


def forecasts(curves: Sequence[Mapping[int, float]], length: int) -> list[Forecast]:
    """What each of several networks comes to after a training of some length.

    Args:
        curves: of each network, by the samples that a training saw, the loss that it ended at.
        length: samples of the training that is asked for.

    Raises:
        TrainingError: a curve has no point, or none has two, or a loss is not finite and positive.

    A network that was tried once goes the common way, one that was tried more often partly its own:

    >>> found = forecasts([{1000: 2.0, 2000: 1.8, 4000: 1.6}, {1000: 2.0, 2000: 1.9, 4000: 1.8}, {1000: 2.0}], 32000)
    >>> [round(one.loss, 2) for one in found]
    [1.24, 1.4, 1.31]
    >>> found[2].error > found[0].error
    True
    """
    points = [(i, samples, loss) for i, curve in enumerate(curves) for samples, loss in curve.items()]
    for i, curve in enumerate(curves):
        if not curve:
            raise TrainingError(f"nothing can be forecast of network {i}, which was never trained")
    for i, samples, loss in points:
        if not (math.isfinite(loss) and loss > 0):
            raise TrainingError(
                f"nothing can be forecast of network {i}, whose loss after {samples:,} samples is '{loss}'"
            )
    count, shortest = len(curves), min(samples for _, samples, _ in points)
    unit = max(SLOWEST, abs(_common_slope(curves)))
    unknown = [math.inf] * (1 + count)  # nothing is known of the slope, nor of the levels
    deviations = torch.tensor([BENDS * unit, *unknown, *[OWN * unit] * count], dtype=torch.float64)

    def row(i: int, samples: int) -> torch.Tensor:
        """What the logarithm of a loss is made of: the common bend and slope, the levels, and the own slopes."""
        made, doublings = torch.zeros_like(deviations), math.log2(samples / shortest)
        made[0], made[1], made[2 + i], made[2 + count + i] = doublings**2, doublings, 1.0, doublings
        return made

    design = torch.stack([row(i, samples) for i, samples, _ in points])
    seen = torch.tensor([math.log(loss) for _, _, loss in points], dtype=torch.float64)
    scatter = SCATTER * unit
    covariance = torch.linalg.inv(torch.diag(deviations**-2) + design.T @ design / scatter**2)
    found = covariance @ design.T @ seen / scatter**2
    asked = torch.stack([row(i, length) for i in range(count)])
    errors = ((asked @ covariance * asked).sum(1) + scatter**2).sqrt()
    return [
        Forecast(math.exp(loss), float(error)) for loss, error in zip((asked @ found).tolist(), errors, strict=True)
    ]


def _common_slope(curves: Sequence[Mapping[int, float]]) -> float:
    """What the logarithm of the losses changes by with a doubling, by least squares within the curves.

    Raises:
        TrainingError: no curve has two points.
    """
    products, squares = 0.0, 0.0
    for curve in curves:
        x, y = [math.log2(samples) for samples in curve], [math.log(loss) for loss in curve.values()]
        products += sum((a - mean(x)) * (b - mean(y)) for a, b in zip(x, y, strict=True))
        squares += sum((a - mean(x)) ** 2 for a in x)
    if not squares:
        raise TrainingError("nothing can be forecast of networks that were all tried once: train one at two lengths")
    return products / squares
