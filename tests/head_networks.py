"""Tiny networks with attention heads: torch's module in the ways in which it is called, and attention written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import SwinTransformerBlockV2

CAUSAL = torch.triu(torch.full((4, 4), float("-inf")), 1)


class Attending(nn.Module):
    """Two blocks of a norm and torch's attention, with a stream of 8 and 2 heads by default.

    Args:
        heads: of the attention.
        module: its further arguments.
        call: arguments of its call.
        shown: whether the network returns the weights too.
    """

    def __init__(self, heads: int = 2, module: dict[str, Any] | None = None, shown: bool = False, **call: Any) -> None:
        super().__init__()
        options = {"batch_first": True, **(module or {})}
        self.stem, self.head, self.call, self.shown = nn.Linear(5, 8), nn.Linear(8, 3), call, shown
        self.attend = nn.ModuleList(nn.MultiheadAttention(8, heads, **options) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Any:
        x, weights = self.stem(x), None
        for norm, attend in zip(self.norms, self.attend, strict=True):
            y = norm(x)
            y, weights = attend(y, y, y, key_padding_mask=padding, **self.call)
            x = x + y
        return (self.head(x), weights) if self.shown else self.head(x)


class ByHand(nn.Module):
    """A block whose attention is written by hand, in one of the spellings of the repositories.

    Args:
        attend: what attends to what; its arguments are the module, what stands before the norm, and behind.
        width: of queries, keys and values together.
    """

    def __init__(self, attend: Callable[[Any, Tensor], Tensor], width: int = 24) -> None:
        super().__init__()
        self.attend, self.heads, self.size = attend, 2, 4
        self.stem, self.norm, self.qkv = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, width)
        self.out, self.last, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.out(self.attend(self, self.norm(x)))
        y: Tensor = self.head(self.last(x))
        return y


def timm_fused(m: ByHand, x: Tensor) -> Tensor:
    n, t, c = x.shape
    q, k, v = m.qkv(x).reshape(n, t, 3, m.heads, m.size).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)


def timm(m: ByHand, x: Tensor) -> Tensor:
    n, t, c = x.shape
    q, k, v = m.qkv(x).reshape(n, t, 3, m.heads, c // m.heads).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q * m.size**-0.5) @ k.transpose(-2, -1)
    y: Tensor = weights.softmax(-1) @ v
    return y.transpose(1, 2).reshape(n, t, c)


def nano_gpt(m: ByHand, x: Tensor) -> Tensor:
    n, t, c = x.size()
    q, k, v = m.qkv(x).split(8, dim=2)
    k = k.view(n, t, m.heads, c // m.heads).transpose(1, 2)
    q = q.view(n, t, m.heads, c // m.heads).transpose(1, 2)
    v = v.view(n, t, m.heads, c // m.heads).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).contiguous().view(n, t, c)


def by_einsum(m: ByHand, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (m.heads, -1)) for part in m.qkv(x).chunk(3, -1))
    weights = torch.einsum("nqhd,nkhd->nhqk", q, k).mul(0.5).softmax(-1)
    return torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2)


def several_left(m: ByHand, x: Tensor) -> Tensor:
    q, k, v = (part.view(x.shape[0], x.shape[1], m.heads, -1).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def multi_query(m: ByHand, x: Tensor) -> Tensor:
    n, t, c = x.shape
    y = m.qkv(x).view(n, t, m.heads + 2, m.size).transpose(1, 2)
    q, k, v = y[:, :-2], y[:, [-2]], y[:, [-1]]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)


class Case(NamedTuple):
    """A network with its samples.

    Attributes:
        make: the network.
        inputs: of its forward.
        heads: of every attention, which are free.
        by_calls: whether that it trains as the module does is seen from its calls alone.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    heads: int
    by_calls: bool = True


def tokens() -> tuple[Tensor, ...]:
    return (torch.randn(3, 4, 5),)


def padded() -> tuple[Tensor, ...]:
    return torch.randn(3, 4, 5), torch.tensor([[False] * 4, [False] * 3 + [True], [False] * 2 + [True] * 2])


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


def uneven_images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 6, 8),)


MODULES: dict[str, Case] = {
    "torchvision's ViT": Case(
        lambda: VisionTransformer(8, 4, 2, 2, 8, 16, dropout=0.1, attention_dropout=0.2, num_classes=5), images, 2
    ),
    "torch's encoder": Case(
        lambda: nn.Sequential(
            nn.Linear(5, 8),
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2),
            nn.Linear(8, 3),
        ),
        tokens,
        2,
    ),
    "with dropout": Case(lambda: Attending(module={"dropout": 0.3}, need_weights=False), tokens, 2),
    "weights left": Case(lambda: Attending(4, {"dropout": 0.3}), tokens, 4, by_calls=False),
    "weights returned": Case(lambda: Attending(shown=True, average_attn_weights=True), tokens, 2, by_calls=False),
    "without biases": Case(lambda: Attending(module={"bias": False}, need_weights=False), tokens, 2),
    "length first": Case(lambda: Attending(module={"batch_first": False}, need_weights=False), tokens, 2),
    "one head": Case(lambda: Attending(1, need_weights=False), tokens, 1),
    "causal": Case(lambda: Attending(need_weights=False, attn_mask=CAUSAL, is_causal=True), tokens, 2),
    "mask": Case(lambda: Attending(need_weights=False, attn_mask=CAUSAL), tokens, 2),
    "truth values": Case(lambda: Attending(need_weights=False, attn_mask=CAUSAL < 0), tokens, 2, by_calls=False),
    "padding": Case(lambda: Attending(need_weights=False), padded, 2, by_calls=False),
    "mask and weights": Case(lambda: Attending(shown=True, attn_mask=CAUSAL), tokens, 2, by_calls=False),
    "padding and weights": Case(lambda: Attending(4, {"dropout": 0.3}), padded, 4, by_calls=False),
    "all of them": Case(
        lambda: Attending(module={"add_bias_kv": True, "add_zero_attn": True}, attn_mask=CAUSAL < 0),
        padded,
        2,
        by_calls=False,
    ),
    "mask and padding": Case(lambda: Attending(need_weights=False, attn_mask=CAUSAL < 0), padded, 2, by_calls=False),
}
"""Networks with torch's attention module, as its arithmetic."""


def by_hand(attend: Callable[[Any, Tensor], Tensor]) -> Case:
    return Case(lambda: ByHand(attend), tokens, 2)


BY_HAND = {attend.__name__: by_hand(attend) for attend in (timm_fused, timm, nano_gpt, by_einsum, several_left)}
BY_HAND["multi_query"] = Case(lambda: ByHand(multi_query, 16), tokens, 2)
"""Networks whose attention is written by hand."""


WINDOWS = {
    "torchvision's Swin": Case(lambda: SwinTransformer([2, 2], 4, [2], [2], [2, 2], num_classes=3), uneven_images, 2),
    "torchvision's second Swin": Case(
        lambda: SwinTransformer([2, 2], 4, [2], [2], [2, 2], num_classes=3, block=SwinTransformerBlockV2),
        uneven_images,
        2,
    ),
}
"""Networks that attend within windows, which are shifted and padded; torchvision marks their attention by torch.fx.wrap."""


def built(case: Case) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in eval mode, every parameter of it random, and samples."""
    torch.manual_seed(0)
    network = case.make().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return network, case.inputs()
