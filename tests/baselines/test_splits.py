"""Baseline splits: each goes by its own rule, and all are judged by the same model."""

from __future__ import annotations

import pytest
import torch

import gngraph.baselines  # noqa: F401  (makes its kinds known)
from gngraph.analysis.manager import AnalysisManager
from gngraph.lowering.to_torch import to_torch
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from tests.scoring.test_exact_predictions import report_loss, setting, worst

KINDS = ("split-random", "split-near-copy", "split-firefly", "split-steepest")


def scored(kind: str, **options: float) -> Scores:
    graph, analyses = setting("residual")
    return analyses.get(GaussNewton("exact", kinds=(kind,), **options), graph)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_baselines_are_predicted_exactly_where_the_model_is_exact(kind: str) -> None:
    graph, analyses = setting("residual")
    scores = analyses.get(GaussNewton("exact", epochs=3, start=1.0, trust=2.0, kinds=(kind,)), graph)
    deviation, size = worst(graph, analyses, scores, "split")
    assert deviation < 2e-6 * max(1.0, size)
    assert report_loss(graph, analyses) > 0


def rms(scores: Scores) -> torch.Tensor:
    """Size of every candidate's d in the unit of the trust region."""
    graph, _ = setting("residual")
    sizes = []
    for candidate in scores.candidates:
        m = candidate.morphism
        assert m.kind == "split"
        weight = graph.params[m.param].data  # type: ignore[union-attr,index]
        scale = weight.flatten(1).square().mean(1).sqrt()[m.channel]  # type: ignore[union-attr]
        sizes.append(m.d1.square().mean().sqrt() / scale)  # type: ignore[union-attr]
    return torch.stack(sizes)


def test_sizes() -> None:
    trust = GaussNewton.trust
    assert torch.allclose(rms(scored("split-random")), torch.tensor(trust, dtype=torch.float64))
    assert torch.allclose(rms(scored("split-near-copy")), torch.tensor(trust / 100, dtype=torch.float64))
    assert torch.allclose(rms(scored("split-steepest", epochs=20)), torch.tensor(trust, dtype=torch.float64))


def learned(kind: str, trust: float) -> Scores:
    """Scores of a kind after many steps on enough samples for the judge to agree with what was learned."""
    graph, _ = setting("residual")
    x = torch.randn(1500, 2, 6, 6, dtype=torch.float64)
    y = to_torch(graph)(x).detach() + torch.tanh(3 * x.mean((2, 3)).sum(1, keepdim=True))
    problem = Problem((x, y), loss="mse", device="cpu", learn=500, judge=500, report=500, batch_size=100)
    return AnalysisManager(problem).get(GaussNewton("exact", epochs=20, start=0.3, trust=trust, kinds=(kind,)), graph)


def test_first_order_learning_goes_farther_along_the_slope() -> None:
    firefly, own = (learned(kind, 3.0) for kind in ("split-firefly", "split"))
    assert float(firefly.judge.s.mean()) < float(own.judge.s.mean())


def test_learning_beats_a_random_direction_of_the_same_size() -> None:
    own, rand = (learned(kind, 0.3) for kind in ("split", "split-random"))
    assert float(own.judge.changes().sum()) < float(rand.judge.changes().sum())


def test_steepest_descent_finds_the_better_direction() -> None:
    steepest, rand = (learned(kind, 0.05) for kind in ("split-steepest", "split-random"))
    assert float(steepest.judge.s.mean()) < float(rand.judge.s.mean())
