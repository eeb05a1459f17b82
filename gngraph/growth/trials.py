"""Trials: networks that are trained briefly to be compared, apart from the samples that they are compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from torch.utils.data import Dataset, Subset

from gngraph.analysis.manager import Problem
from gngraph.data import MapDataset, Sample


@dataclass(frozen=True)
class _Part:
    """A data set of which a part is trained on."""

    train: MapDataset
    test: MapDataset
    augment: Any


def without_judge(problem: Problem) -> Problem:
    """The problem without the training samples of its judge split."""
    judged = set(problem.splits.judge.indices)
    kept = [i for i in range(len(problem.train)) if i not in judged]
    rest = cast(MapDataset, Subset(cast("Dataset[Sample]", problem.train), kept))
    return replace(problem, data=_Part(rest, problem.test, getattr(problem.data, "augment", None)))
