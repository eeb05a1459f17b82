"""Trials: networks that are trained briefly to be compared, apart from the samples that they are compared on."""

from __future__ import annotations

from typing import cast

import torch
from torch.utils.data import Dataset, Subset

from gngraph.data import MapDataset, Sample
from gngraph.running.problem import Problem


def without_judge(problem: Problem, most: int | None = None) -> Problem:
    """The problem without the training samples of its judge split, of the others a random `most` where there are more."""
    judged = set(problem.splits.judge.indices)
    kept = [i for i in range(len(problem.train)) if i not in judged]
    if most is not None and most < len(kept):
        drawn = torch.randperm(len(kept), generator=problem.stream())
        kept = [kept[i] for i in drawn[:most].sort().values.tolist()]
    rest = cast(MapDataset, Subset(cast("Dataset[Sample]", problem.train), kept))
    return problem.trained_on(rest)
