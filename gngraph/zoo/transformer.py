"""A GPT for tokens and a ViT for images: pre-norm blocks of attention and an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.errors import UnsupportedModelError
from gngraph.options.text import Vocabulary
from gngraph.zoo.spec import Builder, SeedSpec

STREAM, HEADS, HEAD_SIZE, WITHIN, STACKED = 128, 4, 32, 512, 4
"""Channels of the stream, heads, channels of a head, hidden channels of an MLP, and blocks. The stream, the heads and the hidden
channels are multiplied by the width."""

ANGLES = tuple(10000.0 ** (-2 * (i % (HEAD_SIZE // 2)) / HEAD_SIZE) for i in range(HEAD_SIZE))
"""By how much each channel of a head is turned from a rotary position to the next."""

PATCHES = 8
"""Patches along the shorter side of an image."""


@dataclass(frozen=True)
class DecoderOptions:
    """The seed "gpt" with its options: what its blocks are made of.

    Attributes:
        norm: LayerNorm, or RMSNorm, which takes no mean.
        positions: a learned table that is added to the tokens, or rotary: queries and keys turned by their positions (Su et al.,
            *RoFormer: Enhanced transformer with rotary position embedding*, 2021).
        queries: heads of queries that share one of keys and values (Ainslie et al., *GQA*, 2023); the heads are multiples of it.

    Raises:
        UnsupportedModelError: `queries` is below 1.
    """

    name: ClassVar[str] = "gpt"
    norm: Literal["layer", "rms"] = "layer"
    positions: Literal["learned", "rotary"] = "learned"
    queries: int = 1

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise UnsupportedModelError(f"'{self.queries}' queries cannot share a key: queries must be at least 1")

    def __call__(self, spec: SeedSpec) -> nn.Module:
        """A network of this size."""
        return GPT(spec, self)

    def normed(self, stream: int) -> nn.Module:
        """A norm over the channels of a stream."""
        return nn.LayerNorm(stream) if self.norm == "layer" else nn.RMSNorm(stream)


PLAIN = DecoderOptions()
"""What "gpt" alone stands for."""


class Attention(nn.Module):
    """Self-attention [N, T, C] -> [N, T, C], whose heads keep their size whatever the stream's is.

    Args:
        stream: channels of the stream, C.
        heads: how many.
        causal: whether a token sees none that comes later.
        queries: heads of queries that share one of keys and values; the heads are rounded to multiples of it.
    """

    def __init__(self, stream: int, heads: int, causal: bool, queries: int = 1) -> None:
        super().__init__()
        shared = max(1, round(heads / queries))
        self.queries, self.causal = queries, causal
        self.split = [shared * queries * HEAD_SIZE, shared * HEAD_SIZE, shared * HEAD_SIZE]
        self.qkv, self.out = nn.Linear(stream, sum(self.split)), nn.Linear(self.split[0], stream)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """What the tokens attend to; `turn` are cosines and sines of the positions, [T, size of a head]."""
        q, k, v = (y.unflatten(2, (-1, HEAD_SIZE)).transpose(1, 2) for y in self.qkv(x).split(self.split, 2))
        if turn is not None:
            q, k = turned(q, *turn), turned(k, *turn)
        if self.queries > 1:
            k, v = (y.unsqueeze(2).expand(-1, -1, self.queries, -1, -1).flatten(1, 2) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return cast(Tensor, self.out(y.transpose(1, 2).flatten(2)))


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads whose channels are turned by their positions, in pairs of one from each half.

    Args:
        x: [N, heads, T, size].
        cosines, sines: of the angles, which stand twice in [T, size].
    """
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), and the same with an MLP.

    Args:
        spec: says how wide.
        causal: whether a token sees none that comes later.
        decoder: what it is made of.
    """

    def __init__(self, spec: SeedSpec, causal: bool, decoder: DecoderOptions = PLAIN) -> None:
        super().__init__()
        stream, hidden, normed = spec.scaled(STREAM), spec.scaled(WITHIN), decoder.normed
        self.norm1, self.attention = normed(stream), Attention(stream, spec.scaled(HEADS), causal, decoder.queries)
        self.norm2, self.up, self.down = normed(stream), nn.Linear(stream, hidden), nn.Linear(hidden, stream)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[N, T, C] -> [N, T, C]."""
        x = x + self.attention(self.norm1(x), turn)
        return x + cast(Tensor, self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """A decoder of tokens: the scores of the next token at each position, int64 [N, L] -> [N, L, classes].

    The table of tokens is the head's weight as well. It takes up to as many tokens as `input_shape` says.
    """

    def __init__(self, spec: SeedSpec, decoder: DecoderOptions = PLAIN) -> None:
        super().__init__()
        if len(spec.input_shape) != 1:
            raise UnsupportedModelError(
                f'the seed "gpt" takes windows of tokens, such as --input-shape 64, but the input shape is "{spec.shape_text}"'
            )
        stream = spec.scaled(STREAM)
        self.tokens = nn.Embedding(spec.classes, stream)
        self.positions = nn.Embedding(spec.input_shape[0], stream) if decoder.positions == "learned" else None
        self.register_buffer("angles", None if self.positions else torch.tensor(ANGLES), persistent=False)
        self.blocks = nn.ModuleList(PreNormBlock(spec, causal=True, decoder=decoder) for _ in range(STACKED))
        self.norm, self.head = decoder.normed(stream), nn.Linear(stream, spec.classes, bias=False)
        self.head.weight = self.tokens.weight
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next token, [N, L, classes]."""
        y, turn, places = self.tokens(x), None, torch.arange(x.shape[1], device=x.device)
        if self.positions is not None:
            y = y + self.positions(places)
        else:
            angles = places.unsqueeze(1) * self.get_buffer("angles")
            turn = angles.cos(), angles.sin()
        for block in self.blocks:
            y = block(y, turn)
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

OPTIONED = Vocabulary("seed", {"gpt": DecoderOptions}, UnsupportedModelError)
"""Seeds with options, written as `gpt{norm=rms,positions=rotary,queries=2}`."""
