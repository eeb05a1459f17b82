"""What a removal of channels does that queries and keys are summed over is predicted exactly, where nothing is bent behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.morphing import morph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton


class Compared(nn.Module):
    """Products of queries and keys, of which there may be two, as they are."""

    cos: Tensor
    sin: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.kind = nn.Linear(3, 5), kind
        angles = torch.arange(4.0, dtype=torch.float64).unsqueeze(1) * torch.tensor([1.0, 0.3], dtype=torch.float64)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.q, self.k, self.other, self.both = (nn.Linear(5, n) for n in (4, 4, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        q, k = self.both(x).chunk(2, -1) if self.kind == "packed" else (self.q(x), self.k(x))
        if self.kind == "turned":
            q, k = self.turned(q), self.turned(k)
        if self.kind in ("summed", "averaged"):
            products = q.unsqueeze(2) * k.unsqueeze(1)
            scores = products.sum(-1) if self.kind == "summed" else products.mean(-1)
        else:
            scores = q @ k.transpose(1, 2)
        if self.kind == "shared":
            scores = scores + torch.relu(self.other(x)) @ k.transpose(1, 2)
        flat: Tensor = scores.flatten(1)
        return flat

    def turned(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)


@pytest.mark.parametrize("kind", ["apart", "packed", "shared", "turned", "summed", "averaged"])
def test_removals_are_predicted_exactly(kind: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 4, 3, dtype=torch.float64), torch.randn(64, 16, dtype=torch.float64)
    graph = from_torch(Compared(kind).double(), x)
    analyses = AnalysisManager(Problem((x, y), loss="mse", device="cpu", learn=32, judge=16, report=16, batch_size=8))
    kinds = ("split", "prune", "merge", "new")
    scores = analyses.get(GaussNewton("exact", kinds=kinds, epochs=1), graph)
    spaces, report = ChannelSpaces.of(graph), analyses.problem.splits.report
    samples, targets = (torch.stack([report[i][k] for i in range(len(report))]) for k in (0, 1))

    def loss(network: Graph) -> float:
        with torch.no_grad():
            return float((lower(network).module(samples) - targets).square().mean())

    (name,) = (space.name for space in spaces.free if any(slot.across for slot in space.slots))
    found = [(i, c.morphism) for i, c in enumerate(scores.candidates) if c.morphism.space == name]
    size = 2 if kind == "turned" else 4
    assert [m.kind for _, m in found if m.kind in ("prune", "merge")] == ["prune"] * size + ["merge"] * size
    assert not any(m.kind == "new" for _, m in found)
    assert any(name in note and "sums over them" in note for note in scores.notes)
    assert kind != "packed" or any("'both'" in note and "not split" in note for note in scores.notes)
    predicted = scores.report.changes()
    for i, morphism in found:
        actual = loss(morph(graph, spaces, [morphism]).graph) - loss(graph)
        if morphism.kind == "split":  # of the other queries, which are bent
            assert kind == "shared" and float(predicted[i]) == pytest.approx(actual, rel=1e-3, abs=1e-6)
        else:
            assert abs(actual) > 1e-4 and float(predicted[i]) == pytest.approx(actual, rel=1e-4, abs=1e-6)
