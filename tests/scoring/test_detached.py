"""What a change does to the loss is asked of the whole network, of the part that it detaches too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.manager import AnalysisManager
from gngraph.scoring.gauss_newton import GaussNewton


class Net(nn.Module):
    """A body, and a head that may train alone."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.body, self.neck, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.neck(torch.relu(self.body(x))))
        return self.head(h.detach() if self.detached else h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["prune", "split", "merge"])
def test_predictions_pass_where_gradients_do_not(kind: str) -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 6, generator=draws), torch.randint(3, (300,), generator=draws)
    gains = []
    for detached in (False, True):
        torch.manual_seed(1)
        graph = gngraph.from_torch(Net(detached), x[:2])
        analyses = AnalysisManager(gngraph.Problem((x, y), device="cpu"))
        gains.append([c.gain for c in analyses.get(GaussNewton("exact", kinds=(kind,), looks=0), graph).candidates])
    assert gains[0] == pytest.approx(gains[1], abs=1e-7)
    assert max(map(abs, gains[1][:8])) > 1e-5  # of the body, where no gradient comes by training
