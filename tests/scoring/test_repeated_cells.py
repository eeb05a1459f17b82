"""Recurrent layers that are called again with the state that they gave, as decoders are: they are scored as in one call."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

import gngraph


class Once(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells, self.out = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.cells(x)
        return cast(Tensor, self.out(y[:, 4] + y[:, 2]))


class Thrice(Once):
    def forward(self, x: Tensor) -> Tensor:
        first, state = self.cells(x[:, :3])
        _, state = self.cells(x[:, 3:4], state)
        last, _ = self.cells(x[:, 4:], state)
        return cast(Tensor, self.out(last[:, 0] + first[:, 2]))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_calls_that_go_on_are_scored_as_one(kind: type[nn.Module]) -> None:
    x, y = torch.randn(60, 5, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    found: list[dict[str, float]] = []
    for make in (Once, Thrice):
        torch.manual_seed(0)
        graph, analyses = (
            gngraph.from_torch(make(kind), x[:2]),
            gngraph.AnalysisManager(gngraph.Problem((x, y), device="cpu")),
        )
        gains: dict[str, float] = {}
        for name in ("prune", "merge"):
            scores = analyses.get(gngraph.GaussNewton(kinds=(name,)), graph)
            gains |= {f"{name} {i}": c.gain for i, c in enumerate(scores.candidates)}
        found.append(gains)
    assert len(found[0]) == 12 and found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-6)
