"""Weights that are computed, tied, shared or changed by what reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from tests.ingredients.block import Block, Chosen, Maker


def renormed(c: Chosen) -> nn.Module:
    """An embedding whose rows are shortened when they are read, by channel and by place."""
    by_call = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        ids = s.ids[: x.shape[-1]]
        rows = F.embedding(ids, s.e.weight, max_norm=0.5) if by_call else s.e(ids)
        return s.a(x) + rows.t()[:, None, :]

    e = nn.Embedding(9, c.width, max_norm=None if by_call else c.one_of(0.5, 1.0))
    return Block(body, a=c.conv(), e=e, ids=torch.tensor([0, 3, 3, 8, 1, 2, 5, 7, 4]))


def shared(c: Chosen) -> nn.Module:
    inner = nn.Sequential(c.conv(), nn.BatchNorm2d(c.width), nn.ReLU(inplace=c.sometimes()))
    if c.sometimes():
        return Block(lambda s, x: s.one(x) + s.two(s.one(x)), one=inner, two=inner)
    return Block(lambda s, x: s.one(s.one(x)), one=inner)


def tied(c: Chosen) -> nn.Module:
    a, b = c.conv(), c.conv()
    b.weight = a.weight
    return Block(lambda s, x: s.b(torch.relu(s.a(x))) + s.scale * x, a=a, b=b, scale=nn.Parameter(torch.ones(1)))


def tied_transposed(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x.permute(0, 2, 3, 1))
        return F.linear(torch.relu(y), s.a.weight.t()).permute(0, 3, 1, 2)

    return Block(body, a=nn.Linear(c.width, c.width + 1))


def one_memory(c: Chosen) -> nn.Module:
    """Two parameters, or a parameter and a buffer, that are one memory under two names."""
    a, b = c.conv(), c.conv()
    block = Block(lambda s, x: s.b(torch.relu(s.a(x))), a=a, b=b)
    way = c.rng.randrange(4)
    if way == 0:
        b.weight.data = a.weight.data
    elif way == 1:
        b.bias = nn.Parameter(a.weight.data[0, :, 0, 0])
    elif way == 2:
        block.register_buffer("part", a.weight.data[:2])
    else:
        b.weight = nn.Parameter(a.weight.data.transpose(0, 1))
    return block


def normed(c: Chosen) -> nn.Module:
    wrap = c.one_of(
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    )
    return Block(lambda s, x: torch.relu(s.a(x)), a=wrap(c.conv()))


def parametrized(c: Chosen) -> nn.Module:
    class Symmetric(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 0.5 * (w + w.transpose(0, 1))

    a = c.conv()
    parametrize.register_parametrization(a, "weight", Symmetric())
    return Block(lambda s, x: s.a(x), a=a)


def pruned(c: Chosen) -> nn.Module:
    a = c.conv()
    prune.random_unstructured(a, "weight", 0.5)  # type: ignore[no-untyped-call]
    if c.sometimes():
        prune.remove(a, "weight")  # type: ignore[no-untyped-call]
    return Block(lambda s, x: s.a(x), a=a)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


class StandardisedByBatchNorm(nn.Conv2d):
    """As timm's: the statistics of the weight are those of a norm in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        )
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


def standardised(c: Chosen) -> nn.Module:
    kind = c.one_of(Standardised, StandardisedByBatchNorm)
    return Block(lambda s, x: s.a(x), a=kind(c.width, c.width, 3))


def masked(c: Chosen) -> nn.Module:
    mask = (torch.rand(c.width, c.width, 3, 3) < 0.6).float()
    return Block(lambda s, x: F.conv2d(x, s.a.weight * s.mask, s.a.bias, padding=1), a=c.conv(), mask=mask)


def aliased(c: Chosen) -> nn.Module:
    a = c.conv()
    return Block(lambda s, x: s.a(x) * s.weight.mean(), a=a, weight=a.weight)


def listed(c: Chosen) -> nn.Module:
    gains = nn.ParameterList([nn.Parameter(torch.randn(c.width, 1, 1)) for _ in range(2)])
    names = nn.ParameterDict({"shift": nn.Parameter(torch.randn(c.width, 1, 1))})
    return Block(
        lambda s, x: s.a(x) * s.gains[0] + s.gains[1].exp() * s.names["shift"], a=c.conv(), gains=gains, names=names
    )


def hidden(c: Chosen) -> nn.Module:
    """Modules in a list or a tuple, of which the module knows nothing, with a tensor that is no buffer."""
    inner = [c.conv()]
    return Block(lambda s, x: s.a(s.inner[0](x)) * s.gain[0], a=c.conv(), inner=inner, gain=[torch.tensor(0.5)])


def low_rank(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        delta = (s.up @ s.down).view(s.a.weight.shape)
        return F.conv2d(x, s.a.weight + 0.5 * delta, s.a.bias, padding=1)

    block = Block(
        body, a=c.conv(), up=nn.Parameter(torch.randn(c.width, 2)), down=nn.Parameter(torch.randn(2, c.width * 9))
    )
    block.a.weight.requires_grad_(False)  # type: ignore[union-attr]
    return block


def merged(c: Chosen) -> nn.Module:
    """LoRA, merged into the weight for eval mode by `train`."""

    class Merging(Block):
        merged = False

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            delta = (self.up @ self.down).view_as(self.a.weight)  # type: ignore[operator, union-attr, arg-type]
            if mode and self.merged:
                self.a.weight.data -= delta  # type: ignore[union-attr, operator]
            elif not mode and not self.merged:
                self.a.weight.data += delta  # type: ignore[union-attr, operator]
            self.merged = not mode
            return self

    def body(s: Any, x: Tensor) -> Any:
        if s.merged:
            return s.a(x)
        return s.a(x) + F.conv2d(x, (s.up @ s.down).view(s.a.weight.shape), padding=1)

    return Merging(
        body, a=c.conv(), up=nn.Parameter(torch.randn(c.width, 2)), down=nn.Parameter(torch.randn(2, c.width * 9))
    )


MAKERS: dict[str, Maker] = {
    "renormed": renormed,
    "shared": shared,
    "tied": tied,
    "tied transposed": tied_transposed,
    "one memory": one_memory,
    "normed": normed,
    "parametrized": parametrized,
    "pruned": pruned,
    "standardised": standardised,
    "masked": masked,
    "aliased": aliased,
    "listed": listed,
    "hidden": hidden,
    "low rank": low_rank,
    "merged": merged,
}
