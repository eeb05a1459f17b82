"""Trials: networks that are trained briefly to be compared, apart from the samples that they are compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.utils.data import Dataset, Subset

from gngraph.data import MapDataset, Sample
from gngraph.running.problem import Problem


@dataclass(frozen=True)
class _Part:
    """A data set of which a part is trained on."""

    train: MapDataset
    test: MapDataset
    augment: Any


def without_judge(problem: Problem, most: int | None = None) -> Problem:
    """The problem without the training samples of its judge split, of the others a random `most` where there are more."""
    judged = set(problem.splits.judge.indices)
    kept = [i for i in range(len(problem.train)) if i not in judged]
    if most is not None and most < len(kept):
        drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(problem.seed))
        kept = [kept[i] for i in drawn[:most].sort().values.tolist()]
    rest = cast(MapDataset, Subset(cast("Dataset[Sample]", problem.train), kept))
    return replace(problem, data=_Part(rest, problem.test, getattr(problem.data, "augment", None)))
