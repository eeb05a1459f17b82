"""Functions and methods that torch, or a user, has put something around are imported as what they do."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence
from torch.nn import functional as F

from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)


@torch.jit.script
def scripted(x: Tensor, slope: float) -> Tensor:
    return x * torch.sigmoid(x * slope)


@torch.compile(backend="eager")
def compiled(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def latent(s: Any, x: Tensor) -> Tensor:
    mean, spread = s.a(x), F.softplus(s.a(x.flip(-1)))
    return head(s, Normal(mean, spread).rsample() if s.training else mean)


def of_maps(s: Any, x: Tensor) -> Tensor:
    mean = s.a(x)
    return head(s, Independent(Normal(mean, mean.exp()), 1).rsample() if s.training else mean)


def divergence(s: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    mean = s.a(x)
    return head(s, mean), kl_divergence(Normal(mean, mean.exp()), Normal(0.0, 1.0)).sum((1, 2, 3))


def kept(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    drawn: Any = Bernoulli(logits=y)
    return head(s, y * (drawn.sample() if s.training else torch.sigmoid(y)))


def entropy(s: Any, x: Tensor) -> Any:
    chosen: Any = Categorical(logits=head(s, s.a(x)))
    return chosen.entropy()


class Scaled(Body):
    def features(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return head(self, self.a(x) * scale)


def with_forward(made: Callable[[Any], Any]) -> nn.Module:
    module: Any = Scaled(lambda s, x: head(s, s.a(x)))
    module.forward = made(module)
    return module  # type: ignore[no-any-return]


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: Body(lambda s, x: head(s, scripted(s.a(x), 1.7))),
    "compiled": lambda: Body(lambda s, x: head(s, compiled(s.a(x)))),
    "a normal distribution": lambda: Body(latent),
    "independent ones": lambda: Body(of_maps),
    "a divergence": lambda: Body(divergence),
    "a Bernoulli distribution": lambda: Body(kept),
    "an entropy": lambda: Body(entropy),
    "another method": lambda: with_forward(lambda m: m.features),
    "a partial method": lambda: with_forward(lambda m: partial(m.features, scale=3.0)),
    "a method that is given": lambda: with_forward(lambda m: types.MethodType(lambda s, x: s.features(x, 2.0), m)),
}


@pytest.mark.parametrize("name", list(TAKEN))
def test_it_computes_and_trains_as_the_module_does(name: str) -> None:
    torch.manual_seed(0)
    module = TAKEN[name]()
    assert steps_differ(module, to_torch(from_torch(module, X)), X) == []
