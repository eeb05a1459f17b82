"""What a removal of experts' hidden channels does is predicted, though their rows lie in the order of the experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.morphing import morph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.rows import arranged, rows_by_sample
from tests.expert_networks import Experts


class Flat(nn.Module):
    """Experts, with all that they give in one row a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.experts(x)
        return y.flatten(1)


def test_removals_of_experts_hidden_channels_are_predicted() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(96, 6, 5), torch.randn(96, 18)
    graph = from_torch(Flat(), x[:2])
    analyses = AnalysisManager(Problem((x, y), loss="mse", device="cpu", learn=32, judge=32, report=32, batch_size=16))
    scores = analyses.get(GaussNewton("exact", kinds=("prune", "merge"), epochs=1), graph)
    spaces, report = ChannelSpaces.of(graph), analyses.problem.splits.report
    samples, targets = (torch.stack([report[i][k] for i in range(len(report))]) for k in (0, 1))

    def losses(network: Graph) -> Tensor:
        with torch.no_grad():
            found: Tensor = (lower(network).module(samples) - targets).square().mean(1)
            return found

    (hidden,) = (space for space in spaces.free if space.size == 12)
    found = [(i, c.morphism) for i, c in enumerate(scores.candidates) if c.morphism.space == hidden.name]
    assert [morphism.kind for _, morphism in found] == ["prune"] * 12 + ["merge"] * 12
    for i, morphism in found:
        actual = losses(morph(graph, spaces, [morphism]).graph) - losses(graph)
        assert float(actual.abs().mean()) > 1e-5
        torch.testing.assert_close(scores.report.changes_of([i]), actual, rtol=2e-3, atol=2e-5)


def test_rows_are_told_by_their_samples_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(70).repeat(3)[torch.randperm(210, generator=generator)]
    rows = torch.randn(210, 4, generator=generator, requires_grad=True)
    outputs = torch.zeros(70, 4).index_add(0, owner, rows.tanh() * (owner != 5).unsqueeze(1))
    (found,) = rows_by_sample(outputs, torch.ones(70, 4), [rows], 70)
    assert torch.equal(owner[found], torch.arange(70).unsqueeze(1).expand(70, 3))
    assert arranged(rows, found).shape == (70, 4, 3)
    assert torch.equal(arranged(torch.stack([rows, rows]), found)[1, 3, :, 2], rows[found[3, 2]])
    with pytest.raises(GnGraphError, match="several samples at once"):
        rows_by_sample(outputs + outputs.flip(0), torch.ones(70, 4), [rows], 70)
    fewer = torch.zeros(70, 4).index_add(0, owner.clamp(max=60), rows)
    with pytest.raises(GnGraphError, match="more rows of experts than others"):
        rows_by_sample(fewer, torch.ones(70, 4), [rows], 70)
