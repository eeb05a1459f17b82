"""What is learned in stages has samples of its own in each, however many epochs there are and wherever batches end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Collected
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.proposers.insertions import InsertionLearner
from gngraph.scoring.proposers.merges import Merging
from gngraph.scoring.proposers.new_channels import NewChannelFinder

Staged = InsertionLearner | Merging | NewChannelFinder


def progress(learner: Staged) -> tuple[float, ...]:
    """For each stage a number that changes with every batch that it learns from."""
    if isinstance(learner, InsertionLearner):
        return float(learner._gradient.abs().sum()), float(len(learner._slopes))
    if isinstance(learner, Merging):  # means and covariances are of all samples
        read = learner.reads[0]
        return float(read.count - read.equation_count), float(read.equation_count)
    directions = float(learner._demand.count) if learner._demand is not None else 0.0
    return directions, float(sum(fit.samples for fit in learner._fits)), float(learner._curvature.abs().sum())


@pytest.mark.parametrize("batch_size", [7, 20, 200])
@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "learner"), [("insert", InsertionLearner), ("merge", Merging), ("new", NewChannelFinder)]
)
def test_each_stage_has_samples_of_its_own(
    kind: str, learner: type[Staged], epochs: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(300, 6), torch.randint(3, (300,))
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    served: dict[int, dict[int, list[float]]] = {}
    learn: Callable[..., None] = learner.learn

    def watched(self: Staged, batch: Collected) -> None:
        before = progress(self)
        learn(self, batch)
        for stage, (a, b) in enumerate(zip(before, progress(self), strict=True)):
            if a != b:
                served.setdefault(id(self), {}).setdefault(stage, []).extend(batch.values["input_1"][:, 0].tolist())

    monkeypatch.setattr(learner, "learn", watched)
    problem = Problem((x, y), device="cpu", learn=200, judge=50, report=50, batch_size=batch_size)
    AnalysisManager(problem).get(GaussNewton(kinds=(kind,), epochs=epochs), from_torch(net, x[:2]))
    assert served
    for own in served.values():
        assert len(own) == (3 if kind == "new" else 2)
        samples = [sample for stage in own.values() for sample in stage]
        assert len(samples) == len(set(samples)) == 200, "a sample serves two stages, or one twice, or none"
