"""Random numbers: those that a graph can draw anew, and those that decide what is called."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, drop_block2d, stochastic_depth

from tests.ingredients.block import Block, Chosen, Maker


def layer_drop(c: Chosen) -> nn.Module:
    draw, rate = c.draw(), c.one_of(0.3, 0.5)

    def body(s: Any, x: Tensor) -> Any:
        if s.training and draw() < rate:
            return x
        return x + torch.relu(s.a(x))

    return Block(body, a=c.conv())


def scaled(c: Chosen) -> nn.Module:
    draw = c.draw()
    return Block(lambda s, x: s.a(x) * (draw() if s.training else 0.5), a=c.conv())


def chosen(c: Chosen) -> nn.Module:
    pick = c.one_of(
        random.choice, lambda items: items[np.random.randint(len(items))], lambda items: random.sample([*items], 1)[0]
    )
    return Block(lambda s, x: (pick([s.a, s.b]) if s.training else s.a)(x), a=c.conv(), b=c.conv())


def ordered(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        for i in torch.randperm(2).tolist() if s.training else (0, 1):
            x = torch.tanh((s.a, s.b)[i](x))
        return x

    return Block(body, a=c.conv(), b=c.conv())


def by_the_system(c: Chosen) -> nn.Module:
    """Random numbers that no seed decides."""
    system = random.SystemRandom()

    def body(s: Any, x: Tensor) -> Any:
        return s.a(x) * (system.random() if s.training else 1.0)

    return Block(body, a=c.conv())


def depth(c: Chosen) -> nn.Module:
    mode = c.one_of("row", "batch")
    way = c.one_of(
        lambda s, y: s.d(y),
        lambda s, y: stochastic_depth(y, 0.4, mode, s.training),
        lambda s, y: _dropped(y, s.training),
        lambda s, y: drop_block2d(y, 0.3, 3, training=s.training),
    )
    return Block(lambda s, x: x + way(s, torch.relu(s.a(x))), a=c.conv(), d=StochasticDepth(0.4, mode))


def _dropped(x: Tensor, training: bool) -> Tensor:
    if not training:
        return x
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.6)
    mask.div_(0.6)
    return x * mask


def dropout(c: Chosen) -> nn.Module:
    way = c.one_of(
        lambda s, y: F.dropout(y, 0.4, s.training),
        lambda s, y: F.dropout2d(y, 0.4, s.training),
        lambda s, y: F.alpha_dropout(y, 0.4, training=s.training),
        lambda s, y: F.feature_alpha_dropout(y, 0.4, s.training),
        lambda s, y: F.dropout(y, 0.4),
        lambda s, y: F.dropout(y, p=0.4 if s.training else 0.0),
        lambda s, y: F.rrelu(y, 0.1, 0.3, s.training),
        lambda s, y: s.d(y),
        lambda s, y: s.d(s.d(y)),
    )
    layer = c.one_of(
        nn.Dropout(0.3), nn.Dropout2d(0.3), nn.AlphaDropout(0.3), nn.RReLU(), nn.Dropout(0.3, inplace=True)
    )
    return Block(lambda s, x: way(s, s.a(x)), a=c.conv(), d=layer)


def noisy(c: Chosen) -> nn.Module:
    ways = c.one_of(
        lambda y: y + 0.1 * torch.randn_like(y),
        lambda y: y * torch.rand_like(y),
        lambda y: y + 0.1 * torch.randn(y.shape),
        lambda y: y + 0.1 * torch.randn(y.shape[0], 1, 1, 1),
        lambda y: y * torch.rand(y.size(0), y.size(1), 1, 1, dtype=y.dtype, device=y.device),
        lambda y: y * torch.bernoulli(torch.full_like(y, 0.7)),
        lambda y: torch.normal(y, 0.1),
        lambda y: y + torch.empty_like(y).normal_(0, 0.1),
        lambda y: y + y.new_empty(y.shape).uniform_(-0.1, 0.1),
        lambda y: y[torch.randperm(y.shape[0])],
        lambda y: y[:, torch.randperm(y.shape[1])],
        lambda y: 0.7 * y + 0.3 * y[torch.randperm(y.size(0))],
        lambda y: y + torch.zeros_like(y).uniform_().round(),
        lambda y: F.gumbel_softmax(y, 1.0, dim=1),
        lambda y: y + 0.1 * torch.normal(0.0, 1.0, tuple(y.shape)),
        lambda y: y * torch.rand(1),
        lambda y: y * torch.distributions.Bernoulli(0.5).sample((y.shape[1], 1, 1)),  # type: ignore[no-untyped-call]
    )

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        return ways(y) if s.training else y

    return Block(body, a=c.conv())


def shaken(c: Chosen) -> nn.Module:
    """Shake-shake: a mix in train mode, the mean in eval mode."""

    def body(s: Any, x: Tensor) -> Any:
        one, two = s.a(x), s.b(x)
        if s.training:
            alpha = torch.rand(x.shape[0], 1, 1, 1).to(x.dtype)
            return alpha * one + (1 - alpha) * two
        return (one + two) / 2

    return Block(body, a=c.conv(), b=c.conv())


def own_generator(c: Chosen) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    c.own.append(generator)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        return y + 0.1 * torch.randn(y.shape, generator=generator) if s.training else y

    return Block(body, a=c.conv())


def numpy_noise(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        if s.training:
            y = y + torch.from_numpy(np.random.randn(s.width, 1, 1)).to(y.dtype)
        return y

    return Block(body, a=c.conv(), width=c.width)


def cropped(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        if s.training:
            shift = random.randint(0, 2)
            y = torch.roll(y, shift, -1)
        return y

    return Block(body, a=c.conv())


MAKERS: dict[str, Maker] = {
    "layer drop": layer_drop,
    "scaled": scaled,
    "chosen": chosen,
    "ordered": ordered,
    "by the system": by_the_system,
    "depth": depth,
    "dropout": dropout,
    "noisy": noisy,
    "shaken": shaken,
    "own generator": own_generator,
    "numpy noise": numpy_noise,
    "cropped": cropped,
}
