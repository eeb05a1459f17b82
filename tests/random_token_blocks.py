"""Building blocks of random networks on tokens [N, T, F] and on features [N, F], and the ways between the kinds of values."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_blocks import ADAPTIVE, MAX_POOL, Block, Make, Shape, T, activation, conv, raw, width


def linear(draw: random.Random, inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with or without a bias."""
    return nn.Linear(inputs, outputs, bias=draw.random() < 0.7)


def dense(draw: random.Random, shape: Shape) -> nn.Module:
    return nn.Sequential(linear(draw, shape[-1], width(draw)), activation(draw))


def residual_mlp(draw: random.Random, shape: Shape) -> nn.Module:
    c, inside = shape[-1], width(draw)
    keeps = draw.choice((nn.LayerNorm(c), nn.LayerNorm(c), nn.Identity(), nn.LayerNorm(c, elementwise_affine=False)))
    scale = raw(c) if draw.random() < 0.3 else 1.0
    return Block(
        lambda m, x: x + m.down(m.act(m.up(m.norm(x)))) * (m.scale if isinstance(scale, nn.Parameter) else 0.5),
        norm=keeps, up=linear(draw, c, inside), act=activation(draw), down=linear(draw, inside, c),
        **({"scale": scale} if isinstance(scale, nn.Parameter) else {}),
    )  # fmt: skip


def gated_mlp(draw: random.Random, shape: Shape) -> nn.Module:
    c, half = shape[-1], width(draw)

    def by_chunk(m: Any, x: T) -> Any:
        value, gate = m.up(x).chunk(2, dim=-1)
        return m.down(value * F.silu(gate))

    def by_split(m: Any, x: T) -> Any:
        value, gate = m.up(x).split([half, half], -1)
        return m.down(F.gelu(value) * gate)

    def by_slices(m: Any, x: T) -> Any:
        y = m.up(x)
        return m.down(y[..., :half] * torch.sigmoid(y[..., half:]))

    return Block(
        draw.choice((by_chunk, by_split, by_slices)), up=linear(draw, c, 2 * half), down=linear(draw, half, width(draw))
    )


def raw_linear(draw: random.Random, shape: Shape) -> nn.Module:
    c, inside, outputs = shape[-1], width(draw), width(draw)
    run: Callable[..., Any] = draw.choice(
        (
            lambda m, x: F.linear(torch.relu(F.linear(x, m.up, m.bias)), m.down),
            lambda m, x: torch.relu(x @ m.up.t() + m.bias) @ m.down.t(),
            lambda m, x: (
                torch.addmm(m.bias, x.reshape(-1, c), m.across).view(-1, *shape[:-1], inside).tanh() @ m.down.t()
            ),
            lambda m, x: torch.matmul(torch.relu(torch.matmul(x, m.up.transpose(0, 1))), m.down.T),
        )
    )
    return Block(run, up=raw(inside, c), across=raw(c, inside), bias=raw(inside), down=raw(outputs, inside))


def einsum(draw: random.Random, shape: Shape) -> nn.Module:
    c, inside = shape[-1], width(draw)
    if len(shape) == 2 and draw.random() < 0.5:
        return Block(
            lambda m, x: x + torch.einsum("bsc,ts->btc", F.gelu(torch.einsum("btc,st->bsc", x, m.there)), m.back),
            there=raw(inside, shape[0]), back=raw(shape[0], inside),
        )  # fmt: skip
    return Block(
        lambda m, x: torch.einsum("...h,hc->...c", torch.tanh(torch.einsum("...c,ch->...h", x, m.up)), m.down),
        up=raw(c, inside), down=raw(inside, width(draw)),
    )  # fmt: skip


def bilinear(draw: random.Random, shape: Shape) -> nn.Module:
    c, inside = shape[-1], width(draw)
    return Block(
        lambda m, x: m.out(m.a(x) * torch.tanh(m.b(x)) + m.shift),
        a=linear(draw, c, inside), b=linear(draw, c, inside), shift=raw(inside), out=linear(draw, inside, width(draw)),
    )  # fmt: skip


def layer_norm(draw: random.Random, shape: Shape) -> nn.Module | None:
    c = shape[-1]
    whole = Block(lambda m, x: F.layer_norm(x, (c,), m.weight), weight=raw(c))
    return draw.choice((nn.LayerNorm(c), nn.LayerNorm(c, bias=False), nn.LayerNorm(list(shape)), nn.RMSNorm(c), whole))


def token_norm(draw: random.Random, shape: Shape) -> nn.Module:
    return draw.choice((nn.BatchNorm1d(shape[0]), nn.Dropout(0.2), nn.PReLU(), activation(draw)))


def batch_norm(draw: random.Random, shape: Shape) -> nn.Module:
    return draw.choice((nn.BatchNorm1d(shape[-1]), nn.Dropout(0.2), activation(draw), activation(draw)))


def mixer(draw: random.Random, shape: Shape) -> nn.Module:
    tokens, inside = shape[0], width(draw)
    return Block(
        lambda m, x: x + m.back(m.act(m.there(x.transpose(1, 2)))).transpose(1, 2),
        there=linear(draw, tokens, inside), act=activation(draw), back=linear(draw, inside, tokens),
    )  # fmt: skip


def token_convolution(draw: random.Random, shape: Shape) -> nn.Module:
    return Block(lambda m, x: torch.tanh(m.conv(x.transpose(-1, -2)).mT), conv=conv(draw, shape[-1], width(draw), 1))


def positions(draw: random.Random, shape: Shape) -> nn.Module:
    return Block(lambda m, x: x + m.table, table=draw.choice((raw(1, *shape), raw(*shape), raw(shape[-1]))))


def class_token(draw: random.Random, shape: Shape) -> nn.Module:
    run: Callable[..., Any] = draw.choice(
        (
            lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], dim=1),
            lambda m, x: torch.cat((x, m.token.repeat(x.size(0), 1, 1)), dim=1),
        )
    )
    return Block(run, token=raw(1, 1, shape[-1]))


def reordered(draw: random.Random, shape: Shape) -> nn.Module:
    cut = draw.randint(1, shape[0])
    functions: tuple[Callable[[T], T], ...] = (
        lambda x: x[:, :cut], lambda x: torch.cat([x[:, cut:], x[:, :cut]], 1), lambda x: torch.flip(x, (1,)),
        lambda x: x.reshape(x.shape[0], -1).view(-1, *shape), lambda x: x - x.mean(1, keepdim=True), lambda x: x.cumsum(1) / 3,
        lambda x: torch.cat([x, x.mean(dim=1, keepdim=True)], 1), lambda x: x.softmax(1) * x, lambda x: F.softmax(x, -1),
        lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1).flatten(1, 2),
    )  # fmt: skip
    function = draw.choice(functions)
    return Block(lambda m, x: function(x))


def recurrent(draw: random.Random, shape: Shape) -> nn.Module:
    make: Any = draw.choice((nn.LSTM, nn.GRU, nn.RNN))
    layers, both = draw.choice((1, 1, 2)), draw.random() < 0.3
    layer = make(shape[-1], draw.randint(2, 4), layers, bias=draw.random() < 0.7, batch_first=True, bidirectional=both)
    return Block(lambda m, x: m.layer(x)[0], layer=layer)


def tied(draw: random.Random, shape: Shape) -> nn.Module:
    first, again = linear(draw, shape[-1], shape[-1]), linear(draw, shape[-1], shape[-1])
    again.weight = first.weight
    return Block(lambda m, x: torch.relu(m.again(torch.tanh(m.first(x)))), first=first, again=again)


def autoencoder(draw: random.Random, shape: Shape) -> nn.Module:
    layer = linear(draw, shape[-1], width(draw))
    return Block(
        lambda m, x: F.linear(torch.relu(m.layer(x)), m.layer.weight.t(), m.shift), layer=layer, shift=raw(shape[-1])
    )


def twice(draw: random.Random, shape: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(torch.tanh(m.layer(x))) + x, layer=linear(draw, shape[-1], shape[-1]))


def joined_features(draw: random.Random, shape: Shape) -> nn.Module:
    a, b = width(draw), width(draw)
    return Block(
        lambda m, x: torch.cat([torch.relu(m.a(x)), x, m.b(x)], -1),
        a=linear(draw, shape[-1], a),
        b=linear(draw, shape[-1], b),
    )


TOKENS: dict[str, Make] = {
    f.__name__: f
    for f in (
        dense, residual_mlp, gated_mlp, raw_linear, einsum, bilinear, layer_norm, token_norm, mixer, token_convolution, positions,
        class_token, reordered, recurrent, tied, autoencoder, twice, joined_features,
    )
}  # fmt: skip
"""Name -> block on tokens."""

FEATURES: dict[str, Make] = {
    f.__name__: f
    for f in (
        dense, residual_mlp, gated_mlp, raw_linear, einsum, bilinear, layer_norm, batch_norm, tied, autoencoder, twice,
        joined_features,
    )
}  # fmt: skip
"""Name -> block on features."""


def map_to_tokens(draw: random.Random, shape: Shape) -> nn.Module:
    c, rest = shape[0], math.prod(shape[1:])
    functions: tuple[Callable[[T], T], ...] = (
        lambda x: x.flatten(2).transpose(1, 2), lambda x: x.view(-1, c, rest).permute(0, 2, 1), lambda x: x.flatten(2).mT,
        lambda x: x.permute(0, *range(2, len(shape) + 1), 1).reshape(x.shape[0], -1, c),
    )  # fmt: skip
    function = draw.choice(functions)
    return Block(lambda m, x: function(x))


def map_to_features(draw: random.Random, shape: Shape) -> nn.Module:
    c, rank, length, outputs = shape[0], len(shape) - 1, math.prod(shape), width(draw)
    flat: tuple[Callable[[T], T], ...] = (
        lambda x: x.flatten(1), lambda x: x.view(-1, length), lambda x: x.reshape(x.shape[0], length),
        lambda x: x.view(x.size(0), -1), lambda x: torch.flatten(x, 1), lambda x: x.reshape(-1, c * (length // c)),
    )  # fmt: skip
    axes = tuple(range(2, rank + 2))
    means: tuple[Callable[[T], T], ...] = (
        lambda x: x.mean(axes), lambda x: x.amax(axes), lambda x: x.sum(axes) / 7, lambda x: x.flatten(2).mean(-1),
        lambda x: x.view(x.size(0), c, -1).max(-1).values,
    )  # fmt: skip
    kind = draw.randrange(4)
    if kind == 0:
        return nn.Sequential(draw.choice((nn.Flatten(), nn.Flatten(1))), nn.Linear(length, outputs))
    if kind == 1:
        function = draw.choice(flat)
        return Block(lambda m, x: m.read(function(x)), read=nn.Linear(length, outputs))
    if kind == 2:
        return nn.Sequential(ADAPTIVE[rank](1), nn.Flatten())
    function = draw.choice(means)
    return Block(lambda m, x: function(x))


def tokens_to_map(draw: random.Random, shape: Shape) -> nn.Module:
    tokens, c = shape
    if tokens == 4 and draw.random() < 0.5:
        return Block(lambda m, x: x.transpose(1, 2).reshape(-1, c, 2, 2))
    return Block(lambda m, x: x.transpose(1, 2))


def tokens_to_features(draw: random.Random, shape: Shape) -> nn.Module:
    tokens, c = shape
    functions: tuple[Callable[[T], T], ...] = (
        lambda x: x.mean(1), lambda x: x[:, 0], lambda x: x[:, -1, :], lambda x: x.amax(dim=1), lambda x: x.flatten(1),
        lambda x: x.view(-1, tokens * c), lambda x: torch.cat([x[:, 0], x.mean(dim=1)], 1),
    )  # fmt: skip
    function = draw.choice(functions)
    return Block(lambda m, x: function(x))


def features_to_map(draw: random.Random, shape: Shape) -> nn.Module:
    c = width(draw)
    functions: tuple[Callable[[T], T], ...] = (
        lambda x: x.view(-1, c, 2, 2), lambda x: torch.unflatten(x, 1, (c, 2, 2)), lambda x: x.reshape(x.shape[0], c, 4),
        lambda x: x.view(x.size(0), -1, 2, 2),
    )  # fmt: skip
    function = draw.choice(functions)
    return Block(lambda m, x: function(torch.relu(m.wide(x))), wide=linear(draw, shape[0], 4 * c))


def features_to_tokens(draw: random.Random, shape: Shape) -> nn.Module:
    c = width(draw)
    return Block(lambda m, x: m.wide(x).view(-1, 3, c), wide=linear(draw, shape[0], 3 * c))


BRIDGES: dict[tuple[str, str], Make] = {
    ("map", "tokens"): map_to_tokens,
    ("map", "features"): map_to_features,
    ("tokens", "map"): tokens_to_map,
    ("tokens", "features"): tokens_to_features,
    ("features", "map"): features_to_map,
    ("features", "tokens"): features_to_tokens,
}
"""(kind of value read, kind written) -> block."""


def head(draw: random.Random, kind: str, shape: Shape) -> nn.Module:
    """A last layer on a value of this kind."""
    outputs = draw.randint(2, 4)
    if kind == "map":
        rank = len(shape) - 1
        narrow = MAX_POOL[rank](2) if min(shape[1:]) > 3 else nn.Identity()
        flat = nn.Sequential(
            narrow, nn.Conv1d(shape[0], outputs, 1) if rank == 1 else conv(draw, shape[0], outputs, rank, 1)
        )
        mean = nn.Sequential(ADAPTIVE[rank](1), nn.Flatten(), linear(draw, shape[0], outputs))
        return draw.choice((flat, mean))
    return linear(draw, shape[-1], outputs)
