"""What the removal of a head does is predicted, where the positions stand before the samples too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.morphing import morph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.samples_first import with_samples_first
from tests.head_networks import MODULES, built


class Attended(nn.Module):
    """Attention with nothing but linear layers behind it, to itself or to another sequence."""

    def __init__(self, first: bool, crossed: bool) -> None:
        super().__init__()
        self.other = nn.Linear(3, 8) if crossed else None
        self.stem, self.attend = nn.Linear(3, 8), nn.MultiheadAttention(8, 4, batch_first=first)
        self.head, self.first = nn.Linear(8, 2), first

    def forward(self, x: Tensor) -> Tensor:
        other = None if self.other is None else self.other(x.flip(1))
        x = self.stem(x)
        if not self.first:
            x, other = x.transpose(0, 1), None if other is None else other.transpose(0, 1)
        memory = x if other is None else other
        x = self.attend(x, memory, memory, need_weights=False)[0]
        x = self.head(x if self.first else x.transpose(0, 1))
        return x.flatten(1)


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_what_a_head_is_worth_is_predicted_exactly(first: bool, crossed: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4, 3, dtype=torch.float64)
    y = torch.randn(64, 8, dtype=torch.float64)
    graph = from_torch(Attended(first, crossed).double(), x)
    analyses = AnalysisManager(Problem((x, y), loss="mse", device="cpu", learn=32, judge=16, report=16, batch_size=8))
    scores = analyses.get(GaussNewton("exact", kinds=("prune",), epochs=1), graph)
    spaces, report = ChannelSpaces.of(graph), analyses.problem.splits.report
    samples, targets = (torch.stack([report[i][k] for i in range(len(report))]) for k in (0, 1))

    def loss(network: Graph) -> float:
        with torch.no_grad():
            return float((lower(network).module(samples) - targets).square().mean())

    predicted = scores.report.changes()
    heads = [(i, c.morphism) for i, c in enumerate(scores.candidates) if c.site == "attend"]
    assert len(heads) == 4 and spaces["attend"].size == 4
    for i, prune in heads:
        actual = loss(morph(graph, spaces, [prune]).graph) - loss(graph)
        assert abs(actual) > 1e-4 and float(predicted[i]) == pytest.approx(actual, rel=1e-4, abs=1e-6)


def test_a_graph_with_positions_first_is_turned() -> None:
    network, (x,) = built(MODULES["torchvision's ViT"])
    graph = from_torch(network, x)
    turned = with_samples_first(graph)
    assert graph.nodes.keys() < turned.nodes.keys()
    torch.testing.assert_close(outputs64(turned, (x,)), outputs64(graph, (x,)))
    assert with_samples_first(turned) is turned
    for node in turned.nodes.values():
        assert node.op not in ("linear", "layer_norm") or node.shape[0] == "N"
    spaces = {space.name: space.size for space in ChannelSpaces.of(graph)}
    assert {space.name: space.size for space in ChannelSpaces.of(turned)} == spaces
