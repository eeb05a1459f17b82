"""Ops that treat channels in another way than what lies beside them: networks of two or three layers, changed exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.local_errors import KeptValues
from tests.training_steps import steps_differ


class Small(nn.Module):
    """Layers over 4 features: `a` and `b` give 6, `one` gives 1, `head` reads 6 and `number` reads 1."""

    def __init__(self, of: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.one = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 1)
        self.head, self.number, self.of = nn.Linear(6, 2), nn.Linear(1, 2), of

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self, x)


def masked_by_another(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).clone()
    y[m.b(x) > 0] = 0.5
    return cast(Tensor, m.head(y))


def masked_by_itself(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) * 2
    y[y > 0.5] = x.mean()
    return cast(Tensor, m.head(y))


def masked_in_front(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).mT.clone()
    y[m.b(x[:, 0]) > 0] = 0.5
    return cast(Tensor, m.head(y.mT))


# forward, what is free
CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], set[str]]] = {
    "a number is assigned where another value's channels say": (masked_by_another, {"a"}),
    "a number is assigned where the channels say themselves": (masked_by_itself, {"a"}),
    "a number is assigned to rows of channels": (masked_in_front, {"a"}),
    "products averaged over rows too": (lambda m, x: m.number((m.a(x) * m.b(x)).mean((1, 2)).unsqueeze(1)), {"a"}),
    "products averaged over rows too, which stay": (
        lambda m, x: m.number((m.a(x) * m.b(x)).mean((-1, 1), keepdim=True)), {"a"},
    ),
    "a single channel of numbers, by which those of the first one are gathered": (
        lambda m, x: m.number(m.a(x).gather(1, m.one(x).argsort(1))), set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_where_it_is_free(name: str) -> None:
    torch.manual_seed(0)
    forward, free = CASES[name]
    network, x = Small(forward), torch.randn(2, 3, 4)
    graph = from_torch(network, x)
    assert steps_differ(network, to_torch(graph), x) == []
    spaces = ChannelSpaces.of(graph)
    assert {space.name for space in spaces.free} == free, {space.name: space.frozen for space in spaces}
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 1)
        assert errors.prune is not None
        assert max(errors.split.error, errors.new.error, errors.prune.error) < 1e-10, (space.name, errors)
