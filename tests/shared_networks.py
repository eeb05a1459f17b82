"""Networks with inputs that all samples share: masks, positions, tables, a temperature; and the same that make them themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

LENGTH, WORDS, WIDTH = 6, 11, 8


def causal() -> Tensor:
    """The mask of torch's tutorials."""
    return nn.Transformer.generate_square_subsequent_mask(LENGTH)


class Encoder(nn.Module):
    """A language model as torch's tutorial has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, src: Tensor, src_mask: Tensor) -> Tensor:
        x = self.embedding(src) * math.sqrt(WIDTH) + self.positions[: src.size(1)]
        return cast(Tensor, self.out(self.encoder(x, src_mask)))


class EncoderMaking(Encoder):
    def forward(self, src: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(src, nn.Transformer.generate_square_subsequent_mask(src.size(1)))


class TokensFirst(nn.Module):
    """The same with tokens in front of the samples, as the tutorial really has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.positions = nn.Parameter(torch.randn(LENGTH, 1, WIDTH))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, 2, 12, 0.1), 2, enable_nested_tensor=False
        )

    def forward(self, src: Tensor, src_mask: Tensor) -> Tensor:
        x = self.embedding(src) * math.sqrt(WIDTH) + self.positions[: src.size(0)]
        return cast(Tensor, self.out(self.encoder(x, src_mask)))


class Seq2Seq(nn.Module):
    """A translation model as torch's tutorial has it: tokens in front, masks of padding batch first, masks for all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.transformer = nn.Transformer(WIDTH, 2, 1, 1, 12, 0.1)

    def forward(
        self, src: Tensor, trg: Tensor, src_mask: Tensor, tgt_mask: Tensor, src_padding: Tensor, tgt_padding: Tensor
    ) -> Tensor:
        src, trg = self.embedding(src), self.embedding(trg)
        padding = src_padding, tgt_padding, src_padding
        return cast(Tensor, self.out(self.transformer(src, trg, src_mask, tgt_mask, None, *padding)))


class Translation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.transformer = nn.Transformer(WIDTH, 2, 1, 1, 12, 0.1, batch_first=True)

    def forward(self, src: Tensor, tgt: Tensor, tgt_mask: Tensor) -> Tensor:
        y = self.transformer(self.embedding(src), self.embedding(tgt), tgt_mask=tgt_mask)
        return cast(Tensor, self.out(y))


class TranslationMaking(Translation):
    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(src, tgt, nn.Transformer.generate_square_subsequent_mask(tgt.size(1)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, mask: Tensor, x: Tensor) -> Tensor:
        x = self.stem(x)
        y, _ = self.attention(x, x, x, attn_mask=mask, need_weights=False)
        return cast(Tensor, self.head((x + y).relu().mean(1)))


class AttentionMaking(Attention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(nn.Transformer.generate_square_subsequent_mask(x.size(1)), x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (part.view(n, length, 2, -1).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, -1))
        scores = (q @ k.transpose(-2, -1)) * k.size(-1) ** -0.5
        y = scores.masked_fill(mask == 0, float("-inf")).softmax(-1) @ v
        x = x + self.project(y.transpose(1, 2).reshape(n, length, -1))
        return cast(Tensor, x + self.mlp(self.between(x)))


class Gpt(nn.Module):
    """Written by hand, with positions and mask handed over."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, idx: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        x = self.words(idx) + self.places(positions)
        for block in self.blocks:
            x = block(x, mask)
        return cast(Tensor, self.head(self.norm(x)))


class GptMaking(Gpt):
    def forward(self, idx: Tensor) -> Tensor:  # type: ignore[override]
        length = idx.size(1)
        return super().forward(idx, torch.arange(length), torch.ones(length, length).tril())


class Warm(nn.Module):
    """A temperature beside the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))

    def forward(self, x: Tensor, temperature: Tensor) -> Tensor:
        return cast(Tensor, self.net(x) / temperature)


class Edges(nn.Module):
    """What nodes of a graph give to their neighbours, by a table of edges for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pass_on, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.pass_on(self.stem(x).relu()[:, edges[0]]).relu()
        return cast(Tensor, self.head((x * (edges[1] + 1).unsqueeze(-1)).mean(1)))


class Network(NamedTuple):
    """One of them, inputs for some samples, the same that makes what it shares, and the inputs that are shared."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    making: Callable[[], nn.Module] | None
    shared: dict[str, str]


def words(n: int) -> Tensor:
    """Samples of words."""
    return torch.randint(WORDS, (n, LENGTH))


def rows(n: int) -> Tensor:
    """Samples of vectors in order."""
    return torch.randn(n, LENGTH, 5)


NETWORKS: dict[str, Network] = {
    "encoder": Network(Encoder, lambda n: (words(n), causal()), EncoderMaking, {"src_mask": "f32[6,6]"}),
    "translation": Network(
        Translation, lambda n: (words(n), words(n), causal()), TranslationMaking, {"tgt_mask": "f32[6,6]"}
    ),
    "tokens first": Network(TokensFirst, lambda n: (words(n).t(), causal()), None, {"src_mask": "f32[6,6]"}),
    "attention": Network(Attention, lambda n: (causal(), rows(n)), AttentionMaking, {"mask": "f32[6,6]"}),
    "gpt": Network(
        Gpt,
        lambda n: (words(n), torch.arange(LENGTH), torch.ones(LENGTH, LENGTH).tril()),
        GptMaking,
        {"positions": "i64[6]", "mask": "f32[6,6]"},
    ),
    "temperature": Network(Warm, lambda n: (torch.randn(n, 5), torch.tensor([2.0])), None, {"temperature": "f32[1]"}),
    "scalar": Network(Warm, lambda n: (torch.randn(n, 5), torch.tensor(2.0)), None, {"temperature": "f32[]"}),
    "edges": Network(
        Edges, lambda n: (rows(n), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 5]])), None, {"edges": "i64[2,4]"}
    ),
}


def built(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network of one seed, and inputs for 3 samples."""
    torch.manual_seed(0)
    return NETWORKS[name].make(), NETWORKS[name].inputs(3)
