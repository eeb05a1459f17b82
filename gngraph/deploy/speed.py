"""How long a network takes for a batch, on this machine, as it is now."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from gngraph.deploy.parity import Batch, Run

_FEWEST, _MOST, _SECONDS = 10, 200, 0.5
"""Runs of a batch: at least so many, then until a bound is reached. A tenth of them come before, unmeasured."""


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a batch.

    Attributes:
        batch: samples.
        median: of the runs.
        p95: of the runs: what one in twenty exceeds.
    """

    batch: int
    median: float
    p95: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ms (p95 {self.p95:.3g}) for {self.batch}"


def speed(run: Run, batch: Batch, samples: int) -> Speed:
    """Measures a batch.

    Args:
        run: what is measured.
        batch: its inputs.
        samples: how many they have.
    """
    spent, times = 0.0, list[float]()
    while len(times) < _FEWEST or (spent < _SECONDS and len(times) < _MOST):
        started = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - started)
        spent += times[-1]
    settled = sorted(times[len(times) // 10 :])
    return Speed(samples, 1e3 * statistics.median(settled), 1e3 * settled[int(0.95 * (len(settled) - 1) + 0.5)])
