"""Devices that a forward asks of its own parameters are where the network is, also after it was moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)


def at(s: Any) -> torch.device:
    place: torch.device = next(s.parameters()).device
    return place


FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "to": lambda s, x: head(s, s.a(x.to(at(s)))),
    "to by name": lambda s, x: head(s, s.a(x.to(device=at(s), dtype=s.a.weight.dtype))),
    "positions": lambda s, x: head(s, s.a(x) + torch.arange(x.shape[3] - 2, device=at(s))),
    "zeros": lambda s, x: head(s, s.a(x) + torch.zeros(x.shape[0], 1, 1, 1, device=at(s))),
    "noise": lambda s, x: head(s, s.a(x) + (torch.randn(x.shape[0], 1, 1, 1, device=at(s)) if s.training else 0)),
    "compared": lambda s, x: head(s, s.a(x if x.device == at(s) else x.to(at(s)))),
}


@pytest.mark.parametrize("name", list(FORWARDS))
def test_it_trains_as_the_module_does_and_moves(name: str) -> None:
    module = Body(FORWARDS[name])
    graph = from_torch(module, X)
    assert steps_differ(module, to_torch(graph), X) == []
    assert to_torch(graph).to("meta")(X.to("meta")).is_meta
