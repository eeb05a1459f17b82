"""Factorisations as candidates: exact where the model is, priced as they cost, true on unseen samples, chosen beside channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph
from gngraph.rewrite import Factorise, morph
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.selection import select
from tests.scoring.test_insertion import actual_changes, taught

KINDS = ("low-rank", "separable")


class Linear(nn.Module):
    """Layers behind which everything is linear, with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 3, stride=2, padding=1)
        self.mix, self.head = nn.Linear(9, 5, bias=False), nn.Linear(30, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(torch.tanh(self.stem(x)))
        return self.head(self.mix(x.flatten(2)).flatten(1))  # type: ignore[no-any-return]


def scored() -> tuple[Graph, AnalysisManager, Scores]:
    torch.manual_seed(0)
    graph, analyses = taught(Linear().double(), torch.randn(160, 2, 6, 6, dtype=torch.float64))
    return graph, analyses, analyses.get(GaussNewton("exact", kinds=(*KINDS, "prune")), graph)


def test_exact_curvature_predicts_exactly_where_all_behind_the_layer_is_linear() -> None:
    graph, analyses, scores = scored()
    changes = actual_changes(graph, analyses, scores)
    rows = zip(scores.candidates, scores.report.changes().tolist(), changes, strict=True)
    seen = []
    for candidate, predicted, actual in rows:
        m = candidate.morphism
        if isinstance(m, Factorise) and m.at != "stem":
            seen.append((m.kind, candidate.site))
            assert abs(actual) > 1e-5 and predicted == pytest.approx(actual, rel=1e-4, abs=1e-6)
    assert {("low-rank", "inner"), ("separable", "inner"), ("low-rank", "mix"), ("low-rank", "head")} <= set(seen)


def test_costs_are_those_of_the_rewrite_and_selection_keeps_the_widths_that_were_learned_at() -> None:
    graph, _, scores = scored()
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    for candidate in scores.candidates:
        if isinstance(candidate.morphism, Factorise):
            after = cost(morph(graph, spaces, [candidate.morphism]).graph)
            assert after - cost(graph) == candidate.cost
    whole = cost(graph)
    for kinds in (KINDS, (*KINDS, "prune")):
        chosen = select(scores, model, budget=Budget(max_flops=whole.flops * 8 // 10), kinds=kinds)
        morphisms = chosen.morphisms(scores)
        factored = [m.at for m in morphisms if isinstance(m, Factorise)]
        assert len(set(factored)) == len(factored), "no layer twice"
        assert factored or "prune" in kinds
        assert not {m.space for m in morphisms if not isinstance(m, Factorise)} & chosen.held
        assert cost(morph(graph, spaces, morphisms).graph) == chosen.cost


def test_in_a_network_low_ranks_come_true_and_a_metric_of_the_loss_helps() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 3),
    )
    graph, analyses = taught(network.double(), torch.randn(320, 2, 6, 6, dtype=torch.float64))
    scores = analyses.get(GaussNewton("exact", kinds=("low-rank",)), graph)
    predicted, actual = scores.report.changes().double(), torch.tensor(actual_changes(graph, analyses, scores))
    assert float(torch.corrcoef(torch.stack([predicted, actual.double()]))[0, 1]) > 0.9
    inside = (predicted - actual).abs() <= 3 * scores.report.total_errors()
    assert float(inside.double().mean()) >= 0.8
