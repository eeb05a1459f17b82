"""Trials: networks that are trained briefly to be compared, apart from the samples that they are compared on."""

from __future__ import annotations

import torch

from gngraph.running.problem import Problem, part_of


def with_few(problem: Problem, most: int) -> Problem:
    """The problem with a random `most` of the samples that networks are trained on, where there are more."""
    count = len(problem.train)
    if most >= count:
        return problem
    drawn = torch.randperm(count, generator=problem.stream())[:most].sort().values.tolist()
    return problem.trained_on(part_of(problem.train, drawn))
