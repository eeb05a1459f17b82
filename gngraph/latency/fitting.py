"""The time of a unit as a function of its lengths, fitted to what was measured within whole networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

VECTOR = 4
"""Lengths that are multiples of it are laid out for vectors, and take the time of the next full block; others are not, and may take
twice as long (docs/results.md#milliseconds)."""

ELSEWHERE = 0.1
"""What a measurement counts where lengths are laid out otherwise, once it is brought to the level of those laid out alike: a
depthwise convolution may take twenty times as long."""

OUTLYING = 0.1
"""Relative errors beyond it count as they are, not squared, as of a network that no longer fits the cache."""

_REFITS = 4

REACH = 1.05
"""Lengths may be so much beyond those that were timed before others are."""

_SIZES = 8
"""Tensors that are told apart; of a unit with more (a concatenation of many) all count alike."""

_TICK = 1e-7


class UnitTimes:
    """What a unit takes: so much a run, and so much an entry of each of its tensors, none of it less than nothing.

    Args:
        sizes: of its tensors, see `TimedUnit`.
        block: channels that the hardware takes at a time.
    """

    def __init__(self, sizes: Sequence[tuple[int, ...]], block: int) -> None:
        self._sizes, self._block = sizes, block
        self._lengths, self._seconds = list[tuple[int, ...]](), list[float]()
        self._fitted: dict[tuple[bool, ...], NDArray[np.float64]] = {}

    def add(self, lengths: tuple[int, ...], seconds: float) -> None:
        """Take in a measurement.

        Args:
            lengths: of its extents.
            seconds: that it took.
        """
        self._lengths.append(lengths)
        self._seconds.append(max(seconds, _TICK))
        self._fitted.clear()

    def reach(self, lengths: tuple[int, ...]) -> bool:
        """Whether it was timed at lengths as small and as large.

        Args:
            lengths: of its extents.
        """
        ranges = ((min(own) / REACH, max(own) * REACH) for own in zip(*self._lengths, strict=True))
        return all(low <= length <= high for length, (low, high) in zip(lengths, ranges, strict=True))

    def at(self, lengths: tuple[int, ...]) -> float:
        """Seconds at any lengths.

        Args:
            lengths: of its extents.
        """
        layout = _layout(lengths)
        if layout not in self._fitted:
            self._fitted[layout] = self._fit(layout)
        return float(self._row(lengths) @ self._fitted[layout])

    def _fit(self, layout: tuple[bool, ...]) -> NDArray[np.float64]:
        rows, seconds = np.array([self._row(lengths) for lengths in self._lengths]), np.array(self._seconds)
        alike = np.array([_layout(lengths) == layout for lengths in self._lengths])
        if alike.any() and not alike.all():
            elsewhere = rows @ _robust(rows[~alike], seconds[~alike], np.ones(int((~alike).sum())))
            ratios = np.log(seconds[alike] / np.maximum(elsewhere[alike], _TICK))
            # one measurement more says that the layout makes no difference
            level = np.median(ratios) * len(ratios) / (len(ratios) + 1)
            seconds = np.where(alike, seconds, seconds * np.exp(level))
        return _robust(rows, seconds, np.where(alike, 1.0, ELSEWHERE))

    def _row(self, lengths: tuple[int, ...]) -> NDArray[np.float64]:
        padded = [length if length % VECTOR else -(-length // self._block) * self._block for length in lengths]
        entries = [float(math.prod(padded[place] for place in size)) for size in self._sizes]
        return np.array([1.0, *(entries if len(entries) <= _SIZES else [sum(entries)])])


def _robust(
    rows: NDArray[np.float64], seconds: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Times of each column that none is less than nothing, by the relative errors; large ones count less (Huber)."""
    scale, trust = rows.max(0), np.ones(len(rows))
    for _ in range(_REFITS):
        weights = counts * trust / seconds
        found = nnls(rows / scale * weights[:, None], seconds * weights)[0] / scale
        trust = np.sqrt(OUTLYING / np.maximum(np.abs(rows @ found / seconds - 1), OUTLYING))
    return np.asarray(found)


def _layout(lengths: tuple[int, ...]) -> tuple[bool, ...]:
    aligned = [length % VECTOR == 0 for length in lengths]
    return tuple(aligned) if len(aligned) <= 2 else (all(aligned),)
