"""Tiny networks in which one sequence attends to another by torch's modules: translation, captions, objects, learned queries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, WIDTH = 30, 16


class Translation(nn.Module):
    """A translation model around `nn.Transformer`, as tutorials write it.

    Args:
        mask: how the mask of the answer is made.
        padded: whether masks of padding are given too.
        options: of the transformer.
    """

    def __init__(self, mask: str = "square", padded: bool = True, **options: Any) -> None:
        super().__init__()
        self.mask, self.padded = mask, padded
        self.source, self.answer = (nn.Embedding(WORDS, WIDTH, padding_idx=0) for _ in range(2))
        self.positions = nn.Embedding(12, WIDTH)
        given = {"batch_first": True, "dim_feedforward": 24, **options}
        self.transformer = nn.Transformer(WIDTH, 2, 2, 2, **given)
        self.out = nn.Linear(WIDTH, WORDS)

    def embedded(self, table: nn.Module, words: Tensor) -> Tensor:
        x = table(words) * math.sqrt(WIDTH) + self.positions(torch.arange(words.size(1), device=words.device))
        return cast(Tensor, x if self.transformer.batch_first else x.transpose(0, 1))

    def forward(self, source: Tensor, answer: Tensor) -> Tensor:
        length, options = answer.size(1), dict[str, Any]()
        if self.mask == "square":
            options["tgt_mask"] = nn.Transformer.generate_square_subsequent_mask(length)
        elif self.mask == "causal":
            options["tgt_mask"] = nn.Transformer.generate_square_subsequent_mask(length)
            options["tgt_is_causal"] = True
        elif self.mask == "triu":
            options["tgt_mask"] = torch.triu(torch.ones(length, length, device=answer.device), diagonal=1).bool()
        if self.padded:
            options["src_key_padding_mask"] = options["memory_key_padding_mask"] = source == 0
            options["tgt_key_padding_mask"] = answer == 0
        y = self.transformer(self.embedded(self.source, source), self.embedded(self.answer, answer), **options)
        return cast(Tensor, self.out(y if self.transformer.batch_first else y.transpose(0, 1)))


class Captions(nn.Module):
    """A decoder that looks at an image."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.embedding = nn.Conv2d(3, WIDTH, 4, 4), nn.Embedding(WORDS, WIDTH)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 24, batch_first=True), 2)
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        memory = self.image(image).flatten(2).transpose(1, 2)
        mask = nn.Transformer.generate_square_subsequent_mask(words.size(1))
        return cast(Tensor, self.out(self.decoder(self.embedding(words), memory, tgt_mask=mask)))


class ObjectLayer(nn.Module):
    """DETR's decoder layer: positions are added to queries and keys, not to values, which have the tokens in front."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = (nn.MultiheadAttention(WIDTH, 2, dropout=0.1) for _ in range(2))
        self.linear1, self.linear2, self.dropout = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.Dropout(0.1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        q = k = x + asked
        x = self.norm1(x + self.dropout(self.self_attn(q, k, value=x)[0]))
        found = self.multihead_attn(query=x + asked, key=memory + places, value=memory)[0]
        x = self.norm2(x + self.dropout(found))
        return cast(Tensor, self.norm3(x + self.linear2(self.dropout(F.relu(self.linear1(x))))))


class Objects(nn.Module):
    """DETR's head: learned queries for objects, two layers that answer them, classes and boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.query_embed = nn.Conv2d(3, WIDTH, 4, 4), nn.Embedding(3, WIDTH)
        self.places = nn.Parameter(torch.rand(4, 1, WIDTH))
        self.layers = nn.ModuleList(ObjectLayer() for _ in range(2))
        self.classes, self.boxes = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.backbone(images).flatten(2).permute(2, 0, 1)
        asked = self.query_embed.weight.unsqueeze(1).repeat(1, images.shape[0], 1)
        x = torch.zeros_like(asked)
        for layer in self.layers:
            x = layer(x, memory, self.places, asked)
        return self.classes(x.transpose(0, 1)), self.boxes(x.transpose(0, 1)).sigmoid()


class Latents(nn.Module):
    """Learned latents that look at a sequence of another width, as Perceiver's do.

    Args:
        shown: whether the weights of the attention are returned.
        options: of the attention.
    """

    def __init__(self, shown: bool = False, **options: Any) -> None:
        super().__init__()
        self.shown, self.embed = shown, nn.Linear(5, 12)
        self.latents = nn.Parameter(torch.randn(3, WIDTH) * 0.3)
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True, kdim=12, vdim=12, **options)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        latents = self.latents.unsqueeze(0).expand(x.shape[0], -1, -1)
        found, weights = self.attend(latents, x, x, need_weights=self.shown)
        latents = latents + found
        y = self.head((latents + self.mlp(self.norm(latents))).mean(1))
        return (y, weights) if self.shown else y


class Packed(nn.Module):
    """Attention by one's own hands whose projections are rows of one weight, in several spellings of their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(5, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.in_proj_weight = nn.Parameter(torch.randn(3 * WIDTH, WIDTH) * 0.3)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * WIDTH))
        self.key_value, self.out = nn.Parameter(torch.randn(2 * WIDTH, WIDTH) * 0.3), nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], 2, WIDTH // 2).transpose(1, 2)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(self.heads(q), self.heads(k), self.heads(v))
        return cast(Tensor, self.out(y.transpose(1, 2).flatten(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y, bias = self.norm(x), self.in_proj_bias
        q = F.linear(y, self.in_proj_weight[:WIDTH, :], bias[:WIDTH])
        k = F.linear(y.flip(1), self.in_proj_weight.narrow(0, WIDTH, WIDTH), bias.narrow(0, WIDTH, WIDTH))
        v = F.linear(y.flip(1), self.in_proj_weight[-WIDTH:], torch.split(bias, WIDTH)[2])
        x = x + self.attended(q, k, v)
        first, second = torch.chunk(self.key_value, 2)
        return cast(Tensor, self.head(x + self.attended(self.norm(x), F.linear(x, first), F.linear(y, second))))


class Network(NamedTuple):
    """A network with two samples, and the widths of its spaces of heads by name."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    heads: dict[str, int]


def texts() -> tuple[Tensor, ...]:
    return torch.tensor([[3, 4, 5, 6, 7, 2], [5, 6, 7, 2, 0, 0]]), torch.tensor([[3, 4, 5, 6], [5, 6, 7, 0]])


def rows() -> tuple[Tensor, ...]:
    return (torch.randn(2, 7, 5),)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


_SELF = {f"transformer.{side}coder.layers.{i}.self_attn": 2 for side in ("en", "de") for i in range(2)}
_BOTH = {**_SELF, **{f"transformer.decoder.layers.{i}.multihead_attn": 2 for i in range(2)}}

NETWORKS: dict[str, Network] = {
    "translation": Network(Translation, texts, _BOTH),
    "norms first": Network(lambda: Translation(norm_first=True, activation="gelu", bias=False), texts, _BOTH),
    "tokens first": Network(lambda: Translation(batch_first=False), texts, _BOTH),
    "no padding": Network(lambda: Translation(padded=False), texts, _BOTH),
    "told that it is causal": Network(lambda: Translation("causal", padded=False), texts, _BOTH),
    "a mask of truth values": Network(lambda: Translation("triu"), texts, _BOTH),
    "no mask": Network(lambda: Translation("", padded=False), texts, _BOTH),
    "captions": Network(
        Captions, lambda: (*images(), texts()[1]),
        {f"decoder.layers.{i}.{kind}": 2 for i in range(2) for kind in ("self_attn", "multihead_attn")},
    ),
    "objects": Network(
        Objects, images, {f"layers.{i}.{kind}": 2 for i in range(2) for kind in ("self_attn", "multihead_attn")}
    ),
    "latents": Network(Latents, rows, {"attend": 2}),
    "latents with weights": Network(lambda: Latents(shown=True, dropout=0.1), rows, {"attend": 2}),
    "latents without biases": Network(lambda: Latents(bias=False), rows, {"attend": 2}),
    "one more key": Network(lambda: Latents(add_bias_kv=True), rows, {"attend": 2}),
    "no attention": Network(lambda: Latents(add_zero_attn=True), rows, {"attend": 2}),
    "packed by hand": Network(Packed, rows, {}),
}  # fmt: skip
"""Networks by name."""
