"""A run, and a step of a Grower, is what it is whatever stands around it: no gradients, inference mode or autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gngraph

AROUND: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


X, Y = torch.randn(97, 5), torch.arange(97) % 3


@pytest.mark.parametrize("name", list(AROUND))
def test_a_run_is_the_same(name: str) -> None:
    def losses() -> list[object]:
        result = gngraph.grow(network(), (X, Y), max_params=100, rounds=1, epochs=1, final_epochs=1)
        return [record["loss"] for record in result.history]

    with AROUND[name]():
        found = losses()
    assert found == losses()


@pytest.mark.parametrize("name", list(AROUND))
def test_a_step_leaves_a_module_that_trains_on(name: str) -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    with AROUND[name]():
        grower = gngraph.Grower(module, (X, Y), max_params=150, rounds=1)
        assert grower.score() and grower.step(optimizer)
    cross_entropy(module(X), Y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert all(p.grad is not None and not p.is_inference() for p in module.parameters())
