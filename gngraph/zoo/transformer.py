"""A GPT for tokens and a ViT for images: pre-norm blocks of attention and an MLP, with learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.spec import Builder, SeedSpec

STREAM, HEADS, HEAD_SIZE, WITHIN, STACKED = 128, 4, 32, 512, 4
"""Channels of the stream, heads, channels of a head, hidden channels of an MLP, and blocks. The stream, the heads and the hidden
channels are multiplied by the width."""

PATCHES = 8
"""Patches along the shorter side of an image."""


class Attention(nn.Module):
    """Self-attention [N, T, C] -> [N, T, C], whose heads keep their size whatever the stream's is.

    Args:
        stream: channels of the stream, C.
        heads: how many.
        causal: whether a token sees none that comes later.
    """

    def __init__(self, stream: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(stream, 3 * heads * HEAD_SIZE), nn.Linear(heads * HEAD_SIZE, stream)

    def forward(self, x: Tensor) -> Tensor:
        """What the tokens attend to."""
        q, k, v = (y.unflatten(2, (-1, HEAD_SIZE)).transpose(1, 2) for y in self.qkv(x).chunk(3, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return cast(Tensor, self.out(y.transpose(1, 2).flatten(2)))


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), and the same with an MLP."""

    def __init__(self, spec: SeedSpec, causal: bool) -> None:
        super().__init__()
        stream, hidden = spec.scaled(STREAM), spec.scaled(WITHIN)
        self.norm1, self.attention = nn.LayerNorm(stream), Attention(stream, spec.scaled(HEADS), causal)
        self.norm2, self.up, self.down = nn.LayerNorm(stream), nn.Linear(stream, hidden), nn.Linear(hidden, stream)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] -> [N, T, C]."""
        x = x + self.attention(self.norm1(x))
        return x + cast(Tensor, self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """A decoder of tokens: the scores of the next token at each position, int64 [N, L] -> [N, L, classes].

    The table of tokens is the head's weight as well. It takes up to as many tokens as `input_shape` says.
    """

    def __init__(self, spec: SeedSpec) -> None:
        super().__init__()
        if len(spec.input_shape) != 1:
            raise UnsupportedModelError(
                f'the seed "gpt" takes windows of tokens, such as --input-shape 64, but the input shape is "{spec.shape_text}"'
            )
        stream = spec.scaled(STREAM)
        self.tokens, self.positions = nn.Embedding(spec.classes, stream), nn.Embedding(spec.input_shape[0], stream)
        self.blocks = nn.ModuleList(PreNormBlock(spec, causal=True) for _ in range(STACKED))
        self.norm, self.head = nn.LayerNorm(stream), nn.Linear(stream, spec.classes, bias=False)
        self.head.weight = self.tokens.weight
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next token, [N, L, classes]."""
        y = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            y = block(y)
        return cast(Tensor, self.head(self.norm(y)))


class ViT(nn.Module):
    """A vision transformer with a class token: images [N, C, H, W] -> [N, classes]."""

    def __init__(self, spec: SeedSpec) -> None:
        super().__init__()
        channels, height, width = spec.image()
        size, stream = max(1, min(height, width) // PATCHES), spec.scaled(STREAM)
        self.patches = nn.Conv2d(channels, stream, size, size)
        count = (height // size) * (width // size)
        self.token = nn.Parameter(torch.zeros(1, 1, stream))
        self.positions = nn.Parameter(torch.zeros(1, count + 1, stream))
        self.blocks = nn.ModuleList(PreNormBlock(spec, causal=False) for _ in range(STACKED))
        self.norm, self.head = nn.LayerNorm(stream), nn.Linear(stream, spec.classes)
        _initialise(self)
        nn.init.normal_(self.token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, classes]."""
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.positions
        for block in self.blocks:
            y = block(y)
        return cast(Tensor, self.head(self.norm(y)[:, 0]))


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation .02 and biases of zero, as GPT-2 has them (Radford et al., 2019)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


TRANSFORMERS: Mapping[str, Builder] = {"gpt": GPT, "vit": ViT}
