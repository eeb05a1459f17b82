"""Building blocks of random networks on tokens that compute what others hold: weights, biases, positions, windows, caches."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.random_blocks import Block, Make, Shape, T, activation, divisor, raw, width
from tests.random_token_blocks import linear


def adapter(draw: random.Random, shape: Shape) -> nn.Module:
    """A layer with a sum of low rank on its weight, or of low rank itself, in several spellings."""
    c, outputs, rank, scale = shape[-1], width(draw), draw.randint(1, 3), draw.choice((0.5, 2.0, 1))
    run: Callable[..., Any] = draw.choice(
        (
            lambda m, x: F.linear(x, m.weight + m.up @ m.down * scale, m.bias),
            lambda m, x: F.linear(x, m.weight + scale * torch.matmul(m.up, m.down)),
            lambda m, x: F.linear(x, m.weight - (m.down.t() @ m.up.t()).t() / 2, m.bias),
            lambda m, x: F.linear(x, torch.mm(m.up, m.down), m.bias),
            lambda m, x: F.linear(x, m.up @ m.down),
        )
    )
    return Block(run, weight=raw(outputs, c), up=raw(outputs, rank), down=raw(rank, c), bias=raw(outputs))


def scaled(draw: random.Random, shape: Shape) -> nn.Module:
    """Layers whose weights are multiplied by a number, or by one that is learned."""
    inside, gain = width(draw), nn.Parameter(torch.tensor(0.5))
    run: Callable[..., Any] = draw.choice(
        (
            lambda m, x: F.linear(torch.relu(F.linear(x, m.first * 0.7, m.bias)), m.last / 2),
            lambda m, x: F.linear(torch.tanh(F.linear(x, m.gain * m.first)), m.last * m.gain),
        )
    )
    return Block(run, first=raw(inside, shape[-1]), last=raw(width(draw), inside), bias=raw(inside), gain=gain)


def scaled_convolution(draw: random.Random, shape: Shape) -> nn.Module:
    outputs = width(draw)
    return Block(
        lambda m, x: F.conv1d(m.act(x).transpose(1, 2), m.kernel * 0.5, m.shift, padding=1).transpose(1, 2),
        kernel=raw(outputs, shape[-1], 3), shift=raw(outputs), act=activation(draw),
    )  # fmt: skip


def normalised(draw: random.Random, shape: Shape) -> nn.Module:
    """Weights of directions and lengths, of each row or, in a convolution, of each place of the kernel."""
    c, inside = shape[-1], width(draw)
    if len(shape) == 2 and draw.random() < 0.5:
        groups = draw.choice((1, 2)) if c % 2 == 0 else 1
        conv = nn.Conv1d(c, groups * inside, 3, padding=1, groups=groups, bias=draw.random() < 0.7)
        layer = weight_norm(conv, dim=draw.choice((0, 2)))
        return Block(lambda m, x: torch.tanh(m.layer(x.transpose(1, 2))).transpose(1, 2), layer=layer)
    return nn.Sequential(
        weight_norm(nn.Linear(c, inside)), activation(draw), weight_norm(nn.Linear(inside, width(draw)))
    )


def computed_bias(draw: random.Random, shape: Shape) -> nn.Module:
    inside = width(draw)
    return Block(
        lambda m, x: F.linear(x, m.weight, torch.cat([m.query, torch.zeros_like(m.query), m.value])).tanh(),
        weight=raw(3 * inside, shape[-1]), query=raw(inside), value=raw(inside),
    )  # fmt: skip


def windows(draw: random.Random, shape: Shape) -> nn.Module | None:
    """Attention within pairs of tokens that are shifted, with a bias for each head from a table."""
    (tokens, c), heads, each = shape, draw.randint(1, 3), draw.randint(1, 3)
    if tokens % 2:
        return None
    inside = heads * each

    def run(m: Any, x: T) -> Any:
        y = torch.roll(m.norm(x), -1, 1).view(-1, 2, c)
        q, k, v = m.qkv(y).reshape(-1, 2, 3, heads, each).permute(2, 0, 3, 1, 4)
        bias = m.table[m.places.view(-1)].view(2, 2, heads).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) * each**-0.5 + bias.unsqueeze(0)).softmax(-1)
        y = m.out((weights @ v).transpose(1, 2).reshape(-1, 2, inside)).view(-1, tokens, c)
        return x + torch.roll(y, 1, 1)

    return Block(
        run, norm=nn.LayerNorm(c), qkv=nn.Linear(c, 3 * inside), out=nn.Linear(inside, c), table=raw(3, heads),
        places=torch.tensor([[1, 2], [0, 1]]),
    )  # fmt: skip


def fused_groups(draw: random.Random, shape: Shape) -> nn.Module:
    """Grouped queries by torch's own option, with keys and values that a cache may have begun."""
    (tokens, c), kept, times, each, cached = (
        shape,
        draw.randint(1, 2),
        draw.randint(1, 2),
        draw.randint(1, 3),
        draw.random() < 0.5,
    )

    def run(m: Any, x: T) -> Any:
        q = m.q(x).view(-1, tokens, kept * times, each).transpose(1, 2)
        k, v = m.kv(x).view(-1, tokens, 2, kept, each).permute(2, 0, 3, 1, 4)
        if cached:
            k = torch.cat([torch.tensor([], dtype=k.dtype, device=k.device), k], dim=-2)
            v = torch.cat([torch.tensor([], dtype=v.dtype, device=v.device), v], dim=-2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return x + m.out(y.transpose(1, 2).flatten(2))

    return Block(
        run,
        q=nn.Linear(c, kept * times * each),
        kv=nn.Linear(c, 2 * kept * each),
        out=nn.Linear(kept * times * each, c),
    )


def single_heads(draw: random.Random, shape: Shape) -> nn.Module:
    """A module for each head, whose results are put side by side."""
    (tokens, c), each = shape, draw.randint(1, 3)

    def run(m: Any, x: T) -> Any:
        k, q, v = (layer(x) for layer in (m.key, m.query, m.value))
        weights = (q @ k.mT * k.shape[-1] ** -0.5).masked_fill(m.mask == 0, float("-inf")).softmax(-1)
        return weights @ v

    def head() -> nn.Module:
        key, query, value = (nn.Linear(c, each, bias=False) for _ in range(3))
        return Block(run, key=key, query=query, value=value, mask=torch.tril(torch.ones(tokens, tokens)))

    heads = nn.ModuleList(head() for _ in range(draw.randint(1, 3)))
    out = nn.Linear(each * len(heads), c)
    return Block(lambda m, x: x + m.out(torch.cat([one(x) for one in m.heads], -1)), heads=heads, out=out)


def sizes_alone(draw: random.Random, shape: Shape) -> nn.Module:
    """What is only asked for its size: a first feature, a last one, all entries."""
    functions: tuple[Callable[[T], T], ...] = (
        lambda x: x * x[..., 0].shape[1], lambda x: x / x[:, :, -1].size(-1), lambda x: x * (0.0 if x.numel() == 0 else 0.5),
        lambda x: x + torch.arange(x[..., -1].shape[1], device=x.device)[None, :, None] * 0.1,
    )  # fmt: skip
    function = draw.choice(functions)
    return Block(lambda m, x: function(x))


def repeated(draw: random.Random, shape: Shape) -> nn.Module:
    """Entries that stand several times beside each other, along tokens or features."""
    dim, times = draw.choice((1, 2, -1)), draw.randint(1, 3)
    by_method = draw.random() < 0.5
    return Block(
        lambda m, x: x.repeat_interleave(times, dim) if by_method else torch.repeat_interleave(x, times, dim=dim)
    )


def crossed(draw: random.Random, shape: Shape) -> nn.Module:
    tokens, c = shape
    inside, same, by_mask = divisor(draw, c) * draw.choice((1, 2)), draw.random() < 0.5, draw.random() < 0.4
    heads, shown = divisor(draw, c), draw.random() < 0.4
    options: dict[str, Any] = {
        "bias": draw.random() < 0.7,
        "add_bias_kv": draw.random() < 0.2,
        "add_zero_attn": draw.random() < 0.2,
    }
    if draw.random() < 0.5:
        inside = c
    else:
        options |= {"kdim": inside, "vdim": inside}
    first = draw.random() < 0.6
    layer = nn.MultiheadAttention(c, heads, batch_first=first, **options)
    mask = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1) if by_mask else None

    def attended(m: Any, x: T) -> Any:
        other = torch.tanh(m.other(x)).flip(1)
        values = other if same else m.more(other)
        given = (x, other, values) if first else tuple(y.transpose(0, 1) for y in (x, other, values))
        found = m.attention(*given, need_weights=shown, attn_mask=mask)[0]
        return x + (found if first else found.transpose(0, 1))

    more = {} if same else {"more": linear(draw, inside, inside)}
    return Block(attended, attention=layer, other=linear(draw, c, inside), **more)


def rows_of_one(draw: random.Random, shape: Shape) -> nn.Module:
    c, a, b = shape[-1], width(draw), width(draw)
    ways: tuple[Callable[[Any], Any], ...] = (
        lambda w: (w[:a], w[a : a + b]), lambda w: w.split([a, b]), lambda w: (w.narrow(0, 0, a), w[a:]),
    )  # fmt: skip
    way, biased = draw.choice(ways), draw.random() < 0.5
    bias = {"bias": raw(a + b)} if biased else {}

    def parts(m: Any, x: T) -> Any:
        first, second = way(m.weight)
        ours, theirs = way(m.bias) if biased else (None, None)
        return m.left(torch.relu(F.linear(x, first, ours))) + m.right(torch.tanh(F.linear(x.flip(1), second, theirs)))

    outputs = width(draw)
    return Block(parts, weight=raw(a + b, c), left=linear(draw, a, outputs), right=linear(draw, b, outputs), **bias)


TOKEN_WEIGHTS: dict[str, Make] = {
    f.__name__: f
    for f in (
        adapter, scaled, scaled_convolution, normalised, computed_bias, windows, fused_groups, single_heads, sizes_alone,
        repeated, crossed, rows_of_one,
    )
}  # fmt: skip
"""Name -> block on tokens."""

FEATURE_WEIGHTS: dict[str, Make] = {f.__name__: f for f in (adapter, scaled, normalised, computed_bias)}
"""Name -> block on features."""
