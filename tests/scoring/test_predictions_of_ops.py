"""Ops between two convolutions under a square loss: a prediction with exact curvature is the actual change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from tests.op_networks import CASES, build
from tests.scoring.test_exact_predictions import worst

BENT = [
    "group norm", "functional group norm", "group norm of single channels", "instance norm", "functional instance norm",
    "normalised positions", "prelu", "shared prelu", "gated linear unit", "gates along positions", "threshold", "clamps",
    "comparisons", "filled where another is small", "reciprocals", "added to itself", "stacked", "copies", "softmin over positions",
    "softmax by functions", "interpolation to the size of another", "adaptive maxima", "power averages", "norms",
    "a standardised weight", "statistics in pairs", "extrema", "largest positions", "place of the largest",
    "channels that a kernel spans", "channels that a kernel spans row by row",
]  # fmt: skip
"""Cases with one non-linearity on each way from the first convolution to the last."""

LINEAR = [
    "functional batch norm", "dropouts", "rows by number", "upsampling", "interpolation", "zero padding", "reflections",
    "padding to even sizes", "pixel shuffle", "pixel unshuffle", "channel shuffle", "decoder by functions",
]  # fmt: skip
"""Cases without."""


def setting(name: str) -> tuple[Graph, AnalysisManager]:
    network, _ = build(name)
    network = nn.Sequential(network, nn.Flatten()).eval()
    x = torch.randn(36, *CASES[name].shape)
    with torch.no_grad():
        outputs = network(x)
    y = outputs + torch.randn_like(outputs)
    graph = from_torch(network, x[:1]).to(torch.float64)
    graph = from_torch(lower(graph).module, x[:1].double())  # with types that say float64
    problem = Problem((x.double(), y.double()), loss="mse", device="cpu", learn=12, judge=12, report=12, batch_size=12)
    return graph, AnalysisManager(problem)


@pytest.mark.parametrize("name", BENT)
def test_splits_and_prunes(name: str) -> None:
    graph, analyses = setting(name)
    scores = analyses.get(GaussNewton("exact", epochs=1, start=1.0, trust=2.0), graph)
    for kind in ("split", "prune"):
        deviation, size = worst(graph, analyses, scores, kind)
        assert size > 1e-4, f"no {kind} does anything, so nothing is proved"
        assert deviation < 2e-6 * max(1.0, size), kind  # moments are kept in float32


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_chain_is_told_and_its_prunes_are_exact(name: str) -> None:
    graph, analyses = setting(name)
    scores = analyses.get(GaussNewton("exact"), graph)
    first = [c for c in scores.candidates if c.morphism.space == "0.first"]
    assert {c.morphism.kind for c in first} == {"prune"}
    assert any("'0.first' without a non-linearity behind it" in note for note in scores.notes)
    if name != "decoder by functions":  # whose other spaces are bent more than once
        deviation, size = worst(graph, analyses, scores, "prune")
        assert size > 1e-4 and deviation < 2e-6 * max(1.0, size)
