"""Capacity values over the rounds of a run."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

MEMORY = 0.5
"""Weight of the rounds before in what a round believes: one measurement is noisy, and narrow networks say little of wide ones."""


class CapacityRecord:
    """What widths were measured to be worth in all rounds, later rounds counting for more."""

    def __init__(self) -> None:
        self._worths: dict[str, float] = {}

    def seen(self, worths: Mapping[str, float]) -> dict[str, float]:
        """The worths of all rounds so far for the spaces of this one, each relative to the mean of its round.

        >>> record = CapacityRecord()
        >>> record.seen({"a": 3.0, "b": 1.0})
        {'a': 1.5, 'b': 0.5}
        >>> record.seen({"a": 10.0, "b": 10.0})
        {'a': 1.25, 'b': 0.75}
        """
        mean = fmean(worths.values()) if worths else 0.0
        if mean > 0:
            for space, value in worths.items():
                before = self._worths.get(space, value / mean)
                self._worths[space] = MEMORY * before + (1 - MEMORY) * value / mean
        return {space: self._worths[space] for space in worths if space in self._worths}
