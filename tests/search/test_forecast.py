"""Forecasts of the loss after training: the posterior of what they model, and refusals."""

from __future__ import annotations

import math
import random
from statistics import mean

import pytest

from gngraph.errors import TrainingError
from gngraph.search.forecast import BENDS, OWN, SCATTER, forecasts

LENGTHS = (1000, 2000, 4000)


def test_of_curves_as_they_are_modelled_nine_of_ten_losses_lie_in_the_interval() -> None:
    draw, held = random.Random(0), list[bool]()
    for _ in range(150):
        slope = draw.uniform(-0.8, -0.1)
        bend = draw.gauss(0, BENDS * -slope)
        curves, ends = list[dict[int, float]](), list[float]()
        for _ in range(4):
            level, own = draw.gauss(0.5, 0.3), draw.gauss(slope, OWN * -slope)
            *seen, end = (
                math.exp(level + own * doublings + bend * doublings**2 + draw.gauss(0, SCATTER * -slope))
                for doublings in (0, 1, 2, 5)
            )
            curves.append(dict(zip(LENGTHS, seen, strict=True)))
            ends.append(end)
        intervals = [found.interval(0.9) for found in forecasts(curves, 32000)]
        held += [low <= end <= high for (low, high), end in zip(intervals, ends, strict=True)]
    assert 0.86 < mean(held) < 0.94


def test_a_curve_of_many_points_goes_its_own_way() -> None:
    steep = {1000 * 2**i: 2.0 * 0.9**i for i in range(8)}
    flat = {1000 * 2**i: 2.0 * 0.97**i for i in range(8)}
    a, b = forecasts([steep, flat], 256000)
    assert a.loss == pytest.approx(2.0 * 0.9**8, rel=0.05) and b.loss == pytest.approx(2.0 * 0.97**8, rel=0.05)
    near, far = (forecasts([steep, flat], length)[0].error for length in (256000, 25_600_000))
    assert near < far


def test_a_loss_that_says_nothing_is_refused() -> None:
    with pytest.raises(TrainingError, match="network 1, which was never trained"):
        forecasts([{1000: 1.0}, {}], 2000)
    for loss in (math.nan, math.inf, 0.0):
        with pytest.raises(TrainingError, match=f"network 0, whose loss after 1,000 samples is '{loss}'"):
            forecasts([{1000: loss, 2000: 1.0}], 2000)
    with pytest.raises(TrainingError, match="all tried once: train one at two lengths"):
        forecasts([{1000: 1.0}, {2000: 0.5}], 4000)
