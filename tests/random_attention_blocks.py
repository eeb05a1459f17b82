"""Attention of random networks on tokens [N, T, F], in the spellings of the repositories."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_blocks import Block, Make, Shape, T, divisor, raw, width
from tests.random_token_blocks import linear


def attention(draw: random.Random, shape: Shape) -> nn.Module:
    """Self-attention by hand: one projection or three, heads by view, weights by matmul and softmax or by SDPA."""
    (tokens, c), heads, each = shape, draw.randint(1, 3), draw.randint(1, 3)
    inside = heads * each
    fused, causal = draw.random() < 0.4, draw.random() < 0.3
    first, divided = draw.choice(("computed", "flattened", "counted")), draw.random() < 0.5

    def core(m: Any, q: T, k: T, v: T) -> T:
        if fused:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        scores = q @ k.transpose(-2, -1) * each**-0.5
        if causal:
            scores = scores.masked_fill(m.mask == 0, float("-inf"))
        return torch.matmul(scores.softmax(dim=-1), v)

    def joined(m: Any, x: T) -> Any:
        qkv = m.qkv(x).reshape(x.shape[0], tokens, 3, heads, each).permute(2, 0, 3, 1, 4)
        return m.out(core(m, qkv[0], qkv[1], qkv[2]).transpose(1, 2).reshape(x.shape[0], tokens, inside))

    def unbound(m: Any, x: T) -> Any:
        b, t = x.size(0), x.size(1)
        q, k, v = m.qkv(x).view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return m.out(core(m, q, k, v).transpose(1, 2).flatten(2))

    def chunked(m: Any, x: T) -> Any:
        b, t, _ = x.shape
        q, k, v = m.qkv(x).chunk(3, dim=-1)
        q, k, v = (y.view(b, t, heads, each).transpose(1, 2) for y in (q, k, v))
        return m.out(core(m, q, k, v).transpose(1, 2).contiguous().view(b, t, inside))

    def beside_samples(m: Any, x: T) -> Any:
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, heads, each).transpose(1, 2) for y in m.qkv(x).chunk(3, dim=-1))
        if first == "computed":
            q, k, v = (y.reshape(b * heads, t, each) for y in (q, k, v))
        else:
            q, k, v = (y.flatten(0, 1) if first == "flattened" else y.reshape(-1, t, each) for y in (q, k, v))
        y = core(m, q, k, v)
        y = y.view(y.shape[0] // heads, heads, t, each) if divided else y.view(b, heads, t, each)
        return m.out(y.transpose(1, 2).reshape(b, t, inside))

    def tokens_first(m: Any, x: T) -> Any:
        b, t, _ = x.shape
        y = m.qkv(x).transpose(0, 1)
        q, k, v = (p.contiguous().view(t, b * heads, each).transpose(0, 1) for p in y.chunk(3, dim=-1))
        y = core(m, q, k, v).transpose(0, 1).contiguous().view(t, b, inside).transpose(0, 1)
        return m.out(y)

    def one_head(m: Any, x: T) -> Any:
        q, k, v = m.qkv(x).split(inside, dim=2)
        return m.out(core(m, q, k, v))

    mask = torch.tril(torch.ones(tokens, tokens))
    run = draw.choice((joined, unbound, chunked, beside_samples, tokens_first, one_head))
    return Block(run, qkv=linear(draw, c, 3 * inside), out=linear(draw, inside, width(draw)), mask=mask)


def separate_attention(draw: random.Random, shape: Shape) -> nn.Module:
    """Query, key and value by layers of their own, of which key and value read the mean token as well."""
    (tokens, c), heads, each, value = shape, draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 3)

    def run(m: Any, x: T) -> Any:
        y = torch.cat([x, x.mean(1, keepdim=True)], 1)
        q = m.q(x).view(-1, tokens, heads, each).transpose(1, 2)
        k = m.k(y).view(-1, tokens + 1, heads, each).permute(0, 2, 3, 1)
        v = m.v(y).view(-1, tokens + 1, heads, value).transpose(1, 2)
        weights = torch.softmax(torch.matmul(q, k) / math.sqrt(each), -1)
        return x + m.out((weights @ v).transpose(1, 2).reshape(-1, tokens, heads * value))

    def by_einsum(m: Any, x: T) -> Any:
        q, k = (layer(x).unflatten(-1, (heads, each)) for layer in (m.q, m.k))
        v = m.v(x).unflatten(2, (heads, value))
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        return x + m.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))

    return Block(
        draw.choice((run, by_einsum)), q=linear(draw, c, heads * each), k=linear(draw, c, heads * each),
        v=linear(draw, c, heads * value), out=linear(draw, heads * value, c),
    )  # fmt: skip


def shared_heads(draw: random.Random, shape: Shape) -> nn.Module:
    """Several query heads for each head of keys and values."""
    (tokens, c), kept, times, each = shape, draw.randint(1, 2), draw.randint(1, 2), draw.randint(1, 3)

    def run(m: Any, x: T) -> Any:
        q = m.q(x).view(-1, tokens, kept * times, each).transpose(1, 2)
        k, v = (layer(x).view(-1, tokens, kept, each).transpose(1, 2) for layer in (m.k, m.v))
        if draw_expand:
            k, v = (
                y.unsqueeze(2).expand(-1, -1, times, -1, -1).reshape(-1, kept * times, tokens, each) for y in (k, v)
            )
        else:
            k, v = (y.repeat_interleave(times, dim=1) for y in (k, v))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, tokens, kept * times * each))

    draw_expand = draw.random() < 0.5
    return Block(
        run, q=linear(draw, c, kept * times * each), k=linear(draw, c, kept * each), v=linear(draw, c, kept * each),
        out=linear(draw, kept * times * each, width(draw)),
    )  # fmt: skip


def single_head(draw: random.Random, shape: Shape) -> nn.Module:
    """One head with layers of its own, whose queries and keys are summed over, as they are or behind something."""
    (tokens, c), each, value = shape, draw.randint(1, 4), draw.randint(1, 3)
    fused, by_einsum, scaled = draw.random() < 0.3, draw.random() < 0.3, draw.randrange(4)
    before: Callable[[], nn.Module] = draw.choice(
        (nn.Identity, nn.Identity, nn.ReLU, nn.Tanh, lambda: nn.LayerNorm(each), lambda: nn.RMSNorm(each))
    )

    def weights(m: Any, q: T, k: T) -> T:
        y = torch.einsum("btd,bsd->bts", q, k) if by_einsum else q @ k.transpose(-2, -1)
        y = y * k.shape[-1] ** -0.5 if scaled == 0 else y / math.sqrt(k.size(-1)) if scaled == 1 else y * each**-0.5
        return y + torch.einsum("btd,sd->bts", q, m.places) if scaled == 3 else y

    def run(m: Any, x: T) -> Any:
        q, k = m.before_q(m.q(x)), m.before_k(m.k(x))
        k = k + m.places if scaled == 2 else k
        if fused:
            return m.out(F.scaled_dot_product_attention(q, k, m.v(x)))
        return m.out(weights(m, q, k).softmax(-1) @ m.v(x))

    def shared(m: Any, x: T) -> Any:
        k = m.k(x)
        return m.out((weights(m, m.q(x), k) + weights(m, m.other(x), k)).softmax(-1) @ m.v(x))

    return Block(
        draw.choice((run, run, shared)), q=linear(draw, c, each), k=linear(draw, c, each), v=linear(draw, c, value),
        other=linear(draw, c, each), before_q=before(), before_k=before(), places=raw(tokens, each),
        out=linear(draw, value, width(draw)),
    )  # fmt: skip


def multihead(draw: random.Random, shape: Shape) -> nn.Module:
    heads = divisor(draw, shape[-1])
    layer = nn.MultiheadAttention(shape[-1], heads, batch_first=True, bias=draw.random() < 0.7)
    return Block(lambda m, x: x + m.attention(x, x, x, need_weights=False)[0], attention=layer)


def rotary(draw: random.Random, shape: Shape) -> nn.Module:
    """Pairs that are turned by their places, by halves or by neighbours, or all but a last entry, with a table or by speeds."""
    (tokens, c), heads, pairs = shape, draw.randint(1, 2), draw.randint(1, 3)
    by, packed, fused = (
        draw.choice(("halves", "neighbours", "table", "speeds", "part")),
        draw.random() < 0.4,
        draw.random() < 0.5,
    )
    each, speeds = 2 * pairs + (by == "part"), torch.rand(pairs) + 0.1
    angles = torch.outer(torch.arange(tokens).float(), speeds)
    angles = angles.repeat_interleave(2, -1) if by == "neighbours" else torch.cat([angles, angles], -1)

    def half(x: T) -> T:
        return torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1)

    def by_halves(m: Any, x: T) -> T:
        a, b = x.chunk(2, -1)
        cos, sin = m.cos[..., :pairs], m.sin[..., pairs:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def turned(m: Any, x: T) -> Any:
        if by == "halves":
            return by_halves(m, x)
        if by == "part":
            return torch.cat([by_halves(m, x[..., :-1]), x[..., -1:]], -1)
        if by == "speeds":
            own = (torch.arange(tokens).unsqueeze(1) * m.speeds).repeat(1, 2)
            return own.cos() * x + own.sin() * half(x)
        if by == "neighbours":
            return x * m.cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * m.sin
        return x * m.cos + half(x) * m.sin

    def run(m: Any, x: T) -> Any:
        y = x + m.places(torch.arange(x.shape[1], device=x.device))
        if packed:
            q, k, v = m.qkv(y).view(-1, tokens, 3, heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (layer(y).view(-1, tokens, heads, each).transpose(1, 2) for layer in (m.q, m.k, m.v))
        q, k = turned(m, q), turned(m, k)
        y = F.scaled_dot_product_attention(q, k, v) if fused else (q @ k.mT / math.sqrt(each)).softmax(-1) @ v
        return x + m.out(y.transpose(1, 2).flatten(2))

    inside = heads * each
    return Block(
        run, q=linear(draw, c, inside), k=linear(draw, c, inside), v=linear(draw, c, inside),
        qkv=linear(draw, c, 3 * inside), out=linear(draw, inside, c), places=nn.Embedding(tokens, c),
        cos=angles.cos(), sin=angles.sin(), speeds=speeds,
    )  # fmt: skip


ATTENTION: dict[str, Make] = {
    f.__name__: f for f in (attention, separate_attention, shared_heads, single_head, multihead, rotary)
}
"""Name -> block on tokens."""
