"""Functions and methods that torch, or a user, has put something around are imported as what they do."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any, cast

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


def handed_over(s: Any, x: Tensor) -> Tensor:
    made = {"weight": s.maker.weight.view(4, 4, 1, 1), "bias": s.maker.bias}
    return head(s, torch.func.functional_call(s.sub, made, s.a(x)))


def old_style(s: Any, x: Tensor) -> Tensor:
    offset = x.new([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1) + x.new(1).fill_(2)
    state = torch.autograd.Variable(x.data.new(x.size(0), 4, 1, 1).zero_())
    scale = 2.0 if x.type() in ("torch.FloatTensor", "torch.DoubleTensor") else 3.0
    return head(s, s.a(x) * scale + offset + state + x.new(x.size()).zero_().mean())


def checked(s: Any, x: Tensor) -> Tensor:
    torch._check(x.shape[0] > 0)  # as code is written for torch.export
    torch._check(x.shape[2] == x.shape[3], lambda: "no square")
    return head(s, s.a(x))


def by_pythons_types(s: Any, x: Tensor) -> Tensor:
    h, bool_, float_ = s.a(x), cast(Any, bool), cast(Any, float)
    seen = torch.ones(h.size(2), h.size(3), dtype=bool_).tril() & torch.ones(6, 6, dtype=bool_)
    steps = torch.arange(h.size(3), dtype=float_).to(cast(Any, int)) + int(h.size(2) / 2)
    return head(s, h.masked_fill(~seen, 0.0) * steps + (h > 0).to(cast(Any, int)).sum(dtype=float_).to(h))


def pairs_of_columns(s: Any, x: Tensor) -> Tensor:
    h = torch.fake_quantize_per_tensor_affine(s.a(x), 0.05, 0, -128, 127) * torch.hann_window(x.size(3) - 2)
    first, second = torch.triu_indices(h.size(3), h.size(3), offset=1)
    return head(s, torch.einsum("nchi,nchj->ncij", h, h)[..., first, second].view(-1, 4, 3, 5))


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
    "parameters that are handed over": lambda: Body(handed_over, sub=nn.Conv2d(4, 4, 1), maker=nn.Linear(4, 4)),
    "parts of a sequence": lambda: Body(
        lambda s, x: head(s, s.layers[2:](s.layers[:2](s.a(x)) + 1)),
        layers=nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
    ),
    "checks of sizes": lambda: Body(checked),
    "Python's types for torch's": lambda: Body(by_pythons_types),
    "pairs by their numbers": lambda: Body(pairs_of_columns),
    "constructors of old": lambda: Body(old_style),
    "another method": lambda: with_forward(lambda m: m.features),
    "a partial method": lambda: with_forward(lambda m: partial(m.features, scale=3.0)),
    "a method that is given": lambda: with_forward(lambda m: types.MethodType(lambda s, x: s.features(x, 2.0), m)),
}


@pytest.mark.parametrize("name", list(TAKEN))
def test_it_computes_and_trains_as_the_module_does(name: str) -> None:
    torch.manual_seed(0)
    module = TAKEN[name]()
    assert steps_differ(module, to_torch(from_torch(module, X)), X[:3]) == []


def test_old_types_of_tensors_are_their_dtypes() -> None:
    module = Body(lambda s, x: head(s, s.a(x)).type(cast(Any, torch.DoubleTensor)))
    x = torch.randn(3, 1, 8, 8)
    lowered = to_torch(from_torch(module, X))
    assert lowered(x).dtype == torch.float64
    assert torch.equal(lowered(x), module(x))
