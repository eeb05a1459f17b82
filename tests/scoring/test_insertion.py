"""Inserted layers as candidates: exact where the model is, true on unseen samples, chosen beside channels, and grown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel, cost
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.api import grow
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.report import ReportedRun, draw
from gngraph.rewrite import InsertLayer, Morphism, morph
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.selection import select
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.scoring.test_exact_predictions import CASES, report_loss
from tests.small_networks import NETWORKS, build

LINEAR_BEHIND = {
    "chain": {"_2", "_4"},
    "concat": {"relu"},
    "residual": {"tanh", "mean"},
    "padded": {"_1"},
    "depthwise": {"_2"},
    "grouped reader": {"_1"},
}


def taught(network: nn.Module, x: torch.Tensor) -> tuple[Graph, AnalysisManager]:
    """The network in float64, with outputs of a disturbed copy of itself as targets: there is something to learn."""
    network.train()
    with torch.no_grad():
        network(x)
        network.eval()
        start = {name: p.clone() for name, p in network.named_parameters()}
        for p in network.parameters():
            p.add_(0.3 * p.std() * torch.randn_like(p) if p.numel() > 1 else 0.1)
        y = network(x)
        for name, p in network.named_parameters():
            p.copy_(start[name])
    share = len(x) // 4
    problem = Problem((x, y), loss="mse", device="cpu", learn=2 * share, judge=share, report=share, batch_size=32)
    return from_torch(network, x[:1]), AnalysisManager(problem)


def actual_changes(graph: Graph, analyses: AnalysisManager, scores: Scores) -> list[float]:
    base, spaces = report_loss(graph, analyses), ChannelSpaces.of(graph)
    return [report_loss(morph(graph, spaces, [c.morphism]).graph, analyses) - base for c in scores.candidates]


@pytest.mark.parametrize("name", LINEAR_BEHIND)
def test_exact_curvature_predicts_exactly_where_all_behind_the_cut_is_linear(name: str) -> None:
    torch.manual_seed(0)
    graph, analyses = taught(CASES[name]().double(), torch.randn(160, 2, 6, 6, dtype=torch.float64))
    scores = analyses.get(GaussNewton("exact", kinds=("insert",), trust=10.0), graph)
    places = {c.morphism.at: i for i, c in enumerate(scores.candidates) if isinstance(c.morphism, InsertLayer)}
    assert LINEAR_BEHIND[name] <= set(places)
    rows = zip(
        scores.candidates, scores.report.changes().tolist(), actual_changes(graph, analyses, scores), strict=True
    )
    sizes = []
    for candidate, predicted, actual in rows:
        morphism = candidate.morphism
        assert isinstance(morphism, InsertLayer)
        if morphism.at in LINEAR_BEHIND[name]:
            sizes.append(abs(actual))
            assert predicted == pytest.approx(actual, rel=1e-4, abs=1e-6)
    assert max(sizes) > 1e-4, "nothing happens, so nothing is proved"


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "two outputs"])
def test_to_first_order_predictions_are_exact_in_every_network(name: str) -> None:
    network, example = build(name)
    graph, analyses = taught(network.double(), torch.randn(240, *example.shape[1:], dtype=torch.float64))
    scores = analyses.get(GaussNewton("exact", kinds=("insert",), trust=1e-6), graph)
    slopes = scores.report.s.double().mean(0).tolist()
    assert any(slopes), "nothing happens, so nothing is proved"
    for slope, actual in zip(slopes, actual_changes(graph, analyses, scores), strict=True):
        assert actual == pytest.approx(slope, rel=1e-3, abs=1e-12)


def test_cost_and_names_are_those_of_the_block() -> None:
    torch.manual_seed(0)
    graph, analyses = taught(CASES["chain"]().double(), torch.randn(64, 2, 6, 6, dtype=torch.float64))
    scores = analyses.get(GaussNewton(kinds=("insert",)), graph)
    spaces = ChannelSpaces.of(graph)
    kinds = {(c.site, c.morphism.record()["block"]) for c in scores.candidates}
    assert kinds == {("2", "layer"), ("2", "residual"), ("4", "residual")}
    for candidate in scores.candidates:
        assert candidate.morphism.record()["kind"] == "insert"
        assert candidate.cost == cost(morph(graph, spaces, [candidate.morphism]).graph) - cost(graph)


def test_where_nothing_is_to_be_gained_the_function_is_preserved() -> None:
    """Targets that the network meets up to noise: no step is sure, so that most blocks stay as they start."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(1200, 8)
    with torch.no_grad():
        y = network(x)
    graph, spaces = from_torch(network, x[:1]), ChannelSpaces.of(from_torch(network, x[:1]))
    perfect = AnalysisManager(Problem((x, y), loss="mse", device="cpu", learn=400, judge=400, report=400))
    scores = perfect.get(GaussNewton(kinds=("insert",)), graph)
    assert len(scores.candidates) == 4 and not scores.judge.s.any() and not scores.judge.q.any()
    for candidate in scores.candidates:
        assert relative_error(graph, morph(graph, spaces, [candidate.morphism]).graph) < 1e-12
    noisy = Problem((x, y + torch.randn_like(y)), loss="mse", device="cpu", learn=400, judge=400, report=400)
    unsure = AnalysisManager(noisy).get(GaussNewton(kinds=("insert",)), graph)
    assert float(unsure.judge.changes().max()) < 0.003, "of a loss of 1"


def shallow() -> tuple[Graph, Problem]:
    """A network with one hidden layer, trained on what two teach."""
    torch.manual_seed(0)
    x = torch.randn(6000, 6)
    teacher = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    with torch.no_grad():
        y = (teacher(x) - teacher(x).mean(0)).argmax(1)
    problem = Problem((x, y), device="cpu", learn=2000, judge=2000, report=2000)
    graph = from_torch(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), x[:1])
    return Trainer(problem, TrainOptions(lr=0.1)).train(graph, Stretch(6, "cosine")).graph, problem


def test_gains_on_unseen_samples_come_true_and_layers_compete_with_channels() -> None:
    graph, problem = shallow()
    analyses = AnalysisManager(problem)
    scores = analyses.get(GaussNewton(kinds=("insert", "split")), graph)
    spaces = ChannelSpaces.of(graph)
    base = report_of(graph, problem)
    for i, candidate in enumerate(scores.candidates):
        if isinstance(candidate.morphism, InsertLayer):
            actual = report_of(morph(graph, spaces, [candidate.morphism]).graph, problem) - base
            assert candidate.gain > 0 and actual < 0
            assert float(scores.report.changes()[i]) == pytest.approx(actual, rel=0.3, abs=5e-4)
    model = CostModel(graph, spaces)
    budget = Budget(max_params=4 * cost(graph).params)
    chosen = select(scores, model, budget=budget, kinds=("insert", "split"))
    morphisms: list[Morphism] = chosen.morphisms(scores)
    result = morph(graph, spaces, morphisms).graph
    assert cost(result) == chosen.cost and budget.allows(chosen.cost)
    assert report_of(result, problem) < base


def report_of(graph: Graph, problem: Problem) -> float:
    return mean_loss(graph, problem, problem.splits.report)


@pytest.mark.parametrize("kinds", [("insert",), ("insert", "split", "prune")])
def test_growth_inserts_layers_and_widens_them_in_later_rounds(kinds: tuple[str, ...], tmp_path: Path) -> None:
    graph, problem = shallow()
    result = grow(
        graph, problem, max_params=900, rounds=3, epochs=2, final_epochs=2, kinds=kinds, train=TrainOptions(lr=0.1)
    )
    size = cost(result.graph)
    assert size.params <= 900
    inserted = [
        m for record in result.history[:3] for entry in record["morphisms"].values() for m in entry.get("insert", [])
    ]
    assert inserted and any("inserted" in name for name in result.graph.params)
    assert all(record["refused"] is None for record in result.history[:3])
    free = {space.name: space.size for space in ChannelSpaces.of(result.graph).free}
    assert {name: len(sources) for name, sources in result.lineage.items()} == free
    assert any("inserted" in name for name in free)
    assert result.history[-1]["loss"] < result.history[0]["trained"]["loss"]
    if "split" in kinds:  # pictures of both kinds at once
        assert all(path.stat().st_size > 0 for path in draw(ReportedRun.of(result, tmp_path), tmp_path))


def test_a_network_without_cut_points_is_told() -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(60, 4)
    problem = Problem((x, torch.randint(3, (60,))), device="cpu")
    with pytest.raises(PassError):
        AnalysisManager(problem).get(GaussNewton(kinds=("insert",)), from_torch(network, x[:1]))
