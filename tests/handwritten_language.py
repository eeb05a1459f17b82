"""Language models as people write them: attention in several styles, a state that is carried."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, LENGTH = 13, 6


def _table(dim: int, length: int) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(length).float(), 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class GroupedQueries(nn.Module):
    """Llama's attention by hand: rotary pairs by halves, heads of keys repeated for those of queries."""

    def __init__(self, width: int = 16, heads: int = 4, kept: int = 2) -> None:
        super().__init__()
        self.n_heads, self.n_kv, self.head_dim = heads, kept, width // heads
        self.n_rep = heads // kept
        self.wq = nn.Linear(width, heads * self.head_dim, bias=False)
        self.wk = nn.Linear(width, kept * self.head_dim, bias=False)
        self.wv = nn.Linear(width, kept * self.head_dim, bias=False)
        self.wo = nn.Linear(heads * self.head_dim, width, bias=False)
        cos, sin = _table(self.head_dim, LENGTH)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.wq(x).view(b, t, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.wk(x).view(b, t, self.n_kv, self.head_dim).transpose(1, 2)
        v = self.wv(x).view(b, t, self.n_kv, self.head_dim).transpose(1, 2)
        q = q * self.cos[:t] + rotate_half(q) * self.sin[:t]
        k = k * self.cos[:t] + rotate_half(k) * self.sin[:t]
        k = k.repeat_interleave(self.n_rep, dim=1)
        v = v.repeat_interleave(self.n_rep, dim=1)
        att = (q @ k.transpose(2, 3)) / math.sqrt(self.head_dim)
        mask = torch.full((t, t), float("-inf"), device=x.device).triu(1)
        att = F.softmax(att + mask, dim=-1)
        y = (att @ v).transpose(1, 2).contiguous().view(b, t, -1)
        return cast(Tensor, self.wo(y))


class ComplexPositions(GroupedQueries):
    """Llama's attention as Meta wrote it: pairs of neighbours are complex numbers, which positions turn."""

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        table = torch.stack((self.cos, self.sin), dim=-1)[: x.shape[1], : self.head_dim // 2]
        freqs = torch.view_as_complex(table).view(1, x.shape[1], 1, pairs.shape[-1])
        return torch.view_as_real(pairs * freqs).flatten(3).type_as(x)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.turned(self.wq(x).view(b, t, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.turned(self.wk(x).view(b, t, self.n_kv, self.head_dim)).transpose(1, 2)
        v = self.wv(x).view(b, t, self.n_kv, self.head_dim).transpose(1, 2)
        k, v = (y[:, :, None].expand(b, self.n_kv, self.n_rep, t, self.head_dim).flatten(1, 2) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast(Tensor, self.wo(y.transpose(1, 2).contiguous().view(b, t, -1)))


class SwiGLU(nn.Module):
    def __init__(self, width: int = 16, hidden: int = 20) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.w2(F.silu(self.w1(x)) * self.w3(x)))


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self._norm(x.float()).type_as(x) * self.weight


class Language(nn.Module):
    """Words in, logits of words out, around blocks of attention and feed-forward layers."""

    def __init__(
        self, attention: Callable[[], nn.Module], norm: Callable[[int], nn.Module] = nn.LayerNorm, tied: bool = False
    ):
        super().__init__()
        self.tok_emb = nn.Embedding(WORDS, 16)
        self.pos_emb = nn.Parameter(torch.randn(1, LENGTH, 16) * 0.02)
        self.layers = nn.ModuleList()
        for _ in range(2):
            self.layers.append(nn.ModuleDict({"n1": norm(16), "att": attention(), "n2": norm(16), "ffn": SwiGLU()}))
        self.norm, self.head = norm(16), nn.Linear(16, WORDS, bias=False)
        if tied:
            self.head.weight = self.tok_emb.weight

    def forward(self, idx: Tensor) -> Tensor:
        _, t = idx.shape
        x = self.tok_emb(idx) + self.pos_emb[:, :t]
        for layer in self.layers:
            parts = cast(Any, layer)
            x = x + parts["att"](parts["n1"](x))
            x = x + parts["ffn"](parts["n2"](x))
        return cast(Tensor, self.head(self.norm(x)))


class NanoAttention(nn.Module):
    """nanoGPT's: one projection, a mask that is a buffer, or torch's fused attention."""

    def __init__(self, flash: bool) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.n_head, self.n_embd, self.flash = (
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            4,
            16,
            flash,
        )
        self.attn_dropout, self.resid_dropout, self.dropout = nn.Dropout(0.1), nn.Dropout(0.1), 0.1
        self.register_buffer("bias", torch.tril(torch.ones(LENGTH, LENGTH)).view(1, 1, LENGTH, LENGTH))
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        if self.flash:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=None, dropout_p=self.dropout if self.training else 0, is_causal=True
            )
        else:
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
            y = self.attn_dropout(F.softmax(att, dim=-1)) @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return cast(Tensor, self.resid_dropout(self.c_proj(y)))


class ReadOffAttention(nn.Module):
    """minGPT's with every number read off the stream, as many write it from memory: pieces, heads and scale."""

    def __init__(self, pieces: str, scale: str) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.n_head = nn.Linear(16, 48), nn.Linear(16, 16), 4
        self.pieces, self.scale = pieces, scale
        self.register_buffer("bias", torch.tril(torch.ones(LENGTH, LENGTH)).view(1, 1, LENGTH, LENGTH))
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv, size = self.c_attn(x), C // self.n_head
        q, k, v = qkv.split([C, C, C], -1) if self.pieces == "listed" else qkv.split(C, dim=2)
        q, k, v = (y.view(B, T, self.n_head, size).transpose(1, 2) for y in (q, k, v))
        if self.scale == "fused":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0 / math.sqrt(size))
        else:
            scale = k.size(-1) ** -0.5 if self.scale == "power" else 1.0 / math.sqrt(C // self.n_head)
            att = (q @ k.transpose(-2, -1) * scale).masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
            y = F.softmax(att, dim=-1) @ v
        return cast(Tensor, self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C)))


class FusedGroups(nn.Module):
    """Grouped queries by torch's own option, from one projection of queries and one of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(16, 16), nn.Linear(16, 2 * 8), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q = self.q(x).reshape(b, t, 4, 4).permute(0, 2, 1, 3)
        k, v = self.kv(x).reshape(b, t, 2, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return cast(Tensor, self.o(y.permute(0, 2, 1, 3).reshape(b, t, c)))


class Heads(nn.Module):
    """Karpathy's first lesson: a module for every head, whose results are put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head() for _ in range(4))
        self.proj, self.dropout = nn.Linear(16, 16), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(self.proj(torch.cat([h(x) for h in self.heads], dim=-1))))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(16, 4, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(LENGTH, LENGTH)))
        self.tril: Tensor

    def forward(self, x: Tensor) -> Tensor:
        _, T, _ = x.shape
        k, q = self.key(x), self.query(x)
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        return cast(Tensor, F.softmax(wei, dim=-1) @ self.value(x))


class RelativeBias(nn.Module):
    """T5's kind: a table of biases with an entry for each head, looked up by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16)
        self.heads, self.scale = 4, 4**-0.5
        self.rel = nn.Embedding(2 * LENGTH - 1, 4)
        at = torch.arange(LENGTH)
        self.register_buffer("index", at[None, :] - at[:, None] + LENGTH - 1)
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (y.reshape(b, n, self.heads, -1).permute(0, 2, 1, 3) for y in self.to_qkv(x).chunk(3, dim=-1))
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        dots = dots + self.rel(self.index[:n, :n]).permute(2, 0, 1).unsqueeze(0)
        out = torch.einsum("bhij,bhjd->bhid", dots.softmax(dim=-1), v)
        return cast(Tensor, self.to_out(out.permute(0, 2, 1, 3).reshape(b, n, -1)))


class Disentangled(nn.Module):
    """DeBERTa's attention: words ask for relative positions too, heads go with the samples, and a size is made a tensor."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.places = heads, nn.Embedding(2 * LENGTH, width)
        self.q, self.k, self.v, self.pos_k = (nn.Linear(width, width) for _ in range(4))
        self.o = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), x.size(1), self.heads, -1).permute(0, 2, 1, 3)
        return x.contiguous().view(-1, x.size(2), x.size(3))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scale = torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float) * 2)
        scores = torch.bmm(q, k.transpose(1, 2) / scale.to(q.dtype))
        table = self.split(self.pos_k(self.places.weight.unsqueeze(0))).repeat(q.size(0) // self.heads, 1, 1)
        far = torch.arange(t).unsqueeze(1) - torch.arange(t).unsqueeze(0) + LENGTH
        asked = torch.bmm(q, table.transpose(1, 2))
        scores = scores + torch.gather(asked, dim=-1, index=far.unsqueeze(0).expand(q.size(0), t, t))
        y = torch.bmm(scores.softmax(-1), v).view(-1, self.heads, t, v.size(-1)).permute(0, 2, 1, 3)
        return cast(Tensor, self.o(y.contiguous().view(b, t, -1)))


class Alibi(nn.Module):
    """Slopes by head on distances, which nothing learns."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        slopes = torch.tensor([2.0 ** -(8 * (i + 1) / 4) for i in range(4)])
        at = torch.arange(LENGTH)
        self.register_buffer("alibi", slopes[:, None, None] * (at[None, :] - at[:, None])[None].float())
        self.alibi: Tensor

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, 4, C // 4)
        q, k, v = qkv.unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return cast(
            Tensor,
            self.out(
                F.scaled_dot_product_attention(q, k, v, attn_mask=self.alibi[:, :T, :T])
                .transpose(1, 2)
                .reshape(B, T, C)
            ),
        )


class StateSpace(nn.Module):
    """Mamba in few lines: a gate, a short convolution, a state that is carried from step to step."""

    def __init__(self, width: int = 16, inner: int = 20, states: int = 4, rank: int = 2) -> None:
        super().__init__()
        self.sizes, self.inner = (rank, states, states), inner
        self.in_proj, self.out_proj = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.x_proj, self.dt_proj = nn.Linear(inner, rank + 2 * states, bias=False), nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, states + 1).float().repeat(inner, 1)))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor) -> Tensor:
        b, length, _ = x.shape
        x, res = self.in_proj(x).split(split_size=[self.inner, self.inner], dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[:, :, :length].transpose(1, 2))
        d_in, n = self.A_log.shape
        delta, B, C = self.x_proj(x).split(split_size=self.sizes, dim=-1)
        delta, A = F.softplus(self.dt_proj(delta)), -torch.exp(self.A_log.float())
        deltaA = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
        deltaB_u = torch.einsum("bld,bln,bld->bldn", delta, B, x)
        state, ys = torch.zeros((b, d_in, n), device=deltaA.device), []
        for i in range(length):
            state = deltaA[:, i] * state + deltaB_u[:, i]
            ys.append(torch.einsum("bdn,bn->bd", state, C[:, i, :]))
        y = torch.stack(ys, dim=1) + x * self.D
        return cast(Tensor, self.out_proj(y * F.silu(res)))
