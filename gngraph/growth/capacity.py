"""Capacity values over the rounds of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

from gngraph.scoring.allocation import FLOOR


class CapacityRecord:
    """What was measured in all rounds, averaged: one round sees a few samples, and a few channels of narrow spaces."""

    def __init__(self) -> None:
        self._worths: dict[str, list[float]] = {}

    def seen(self, capacity: Mapping[str, float], widths: Mapping[str, int]) -> dict[str, float]:
        """The round's capacity values in place of which those of all rounds stand, at the round's widths.

        What is averaged, geometrically, is the worth n^2 times capacity of each space relative to the mean of its round, which does
        not depend on widths as capacity does. So the result says how spaces compare, and no longer what a removal loses.

        >>> record = CapacityRecord()
        >>> record.seen({"a": 3.0, "b": 1.0}, {"a": 1, "b": 1})
        {'a': 1.5, 'b': 0.5}
        >>> record.seen({"a": 0.25, "b": 0.75}, {"a": 2, "b": 2})["a"] * 2**2
        0.8660254037844387
        """
        worth = {space: max(0.0, value) * widths[space] ** 2 for space, value in capacity.items()}
        mean = fmean(worth.values()) if worth else 0.0
        if mean > 0:
            for space, value in worth.items():
                self._worths.setdefault(space, []).append(math.log(max(FLOOR, value / mean)))
        known = {space: self._worths[space] for space in capacity if space in self._worths}
        return {space: math.exp(fmean(values)) / widths[space] ** 2 for space, values in known.items()}
