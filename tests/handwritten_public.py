"""Networks in the idioms of public repositories: windows by `int`, offsets in NumPy, weights by hooks, tensors in attributes."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH, WORDS = 6, 30


class AnnotatedNorm(nn.Module):
    """LayerNorm as the Annotated Transformer has it: by the unbiased deviation, to which eps is added."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class FloatNorm(nn.LayerNorm):
    """CLIP's: in the precision of its weights, whatever comes."""

    def forward(self, x: Tensor) -> Tensor:
        before = x.dtype
        return super().forward(x.type(self.weight.dtype)).type(before)


class ResidualAttention(nn.Module):
    """CLIP's block: a mask in an attribute, brought to where its input is."""

    def __init__(self, width: int, mask: Tensor) -> None:
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = nn.MultiheadAttention(width, 2), FloatNorm(width), FloatNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.attn_mask = mask

    def attention(self, x: Tensor) -> Tensor:
        self.attn_mask = self.attn_mask.to(dtype=x.dtype, device=x.device)
        return cast(Tensor, self.attn(x, x, x, need_weights=False, attn_mask=self.attn_mask)[0])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return cast(Tensor, x + self.mlp(self.ln_2(x)))


class TextTower(nn.Module):
    """CLIP's text encoder: the word of the highest number is read."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.empty(LENGTH, LENGTH).fill_(float("-inf")).triu_(1)
        self.token_embedding = nn.Embedding(WORDS, 8)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, 8) * 0.1)
        self.transformer = nn.Sequential(ResidualAttention(8, mask), ResidualAttention(8, mask))
        self.ln_final, self.text_projection = FloatNorm(8), nn.Parameter(torch.randn(8, 5) * 0.3)

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projection.dtype

    def forward(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text).type(self.dtype)
        x = x + self.positional_embedding.type(self.dtype)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.ln_final(x).type(self.dtype)
        return cast(Tensor, x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection)


class Encoder(nn.Module):
    """A layer of the Annotated Transformer: sublayers that are handed on as functions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])
        self.norms = nn.ModuleList([AnnotatedNorm(width) for _ in range(3)])
        self.embed, self.up, self.down = nn.Embedding(WORDS, width), nn.Linear(width, 12), nn.Linear(12, width)
        self.head = nn.Linear(width, 5)

    def attention(self, x: Tensor) -> Tensor:
        n = x.size(0)
        q, k, v = [f(y).view(n, -1, 2, 4).transpose(1, 2) for f, y in zip(self.linears, (x, x, x), strict=False)]
        weights = F.softmax(torch.matmul(q, k.transpose(-2, -1)) / np.sqrt(4), dim=-1)
        x = torch.matmul(weights, v).transpose(1, 2).contiguous().view(n, -1, 2 * 4)
        return cast(Tensor, self.linears[-1](x))

    def sublayer(self, i: int, x: Tensor, layer: Any) -> Tensor:
        return x + cast(Tensor, layer(self.norms[i](x)))

    def forward(self, words: Tensor) -> Tensor:
        x = self.sublayer(0, self.embed(words), lambda x: self.attention(x))
        x = self.sublayer(1, x, lambda x: self.down(F.relu(self.up(x))))
        return cast(Tensor, self.head(self.norms[2](x)))


def window_partition(x: Tensor, size: int) -> Tensor:
    """Windows of a map, as Microsoft's Swin has it."""
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows: Tensor, size: int, H: int, W: int) -> Tensor:
    """The map of windows: how many samples there are is computed from how many windows."""
    B = int(windows.shape[0] / (H * W / size / size))
    x = windows.view(B, H // size, W // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class SwinIR(nn.Module):
    """Windows of a map on the way through a restoration network, which takes a mean off."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.mean, self.size = torch.tensor(0.44).view(1, 1, 1, 1), size
        self.conv_first, self.conv_last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3 * 2**2, 3, 1, 1)
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def attention(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weights = (q * (c // 2) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return cast(Tensor, self.proj((weights @ v).transpose(1, 2).reshape(n, t, c)))

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        self.mean = self.mean.type_as(x)
        x = self.conv_first(x - self.mean)
        y = self.norm(x.permute(0, 2, 3, 1))
        windows = window_partition(y, self.size).view(-1, self.size * self.size, y.shape[-1])
        windows = self.attention(windows).view(-1, self.size, self.size, y.shape[-1])
        x = x + window_reverse(windows, self.size, H, W).permute(0, 3, 1, 2)
        return F.pixel_shuffle(self.conv_last(x), 2)


class FieldEmbedding(nn.Module):
    """A table for all fields of a row, as rixwew's pytorch-fm has it: offsets are an array of NumPy."""

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sum(sizes), width)
        self.offsets = np.array((0, *np.cumsum(sizes)[:-1]), dtype=np.int64)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.embedding(x + x.new_tensor(self.offsets).unsqueeze(0)))


class FieldNetwork(nn.Module):
    """A network on the embeddings of all fields."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.width = FieldEmbedding((30, 31, 32), 4), 3 * 4
        self.cross = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.mlp = nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.1), nn.Linear(10, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.embedding(x).view(-1, self.width)
        for layer in self.cross:
            y = first * layer(y) + y
        return torch.sigmoid(self.mlp(y).squeeze(1))


def by_hook(module: nn.Module) -> nn.Module:
    """The layer with torch's older `weight_norm`, which most repositories have."""
    with warnings.catch_warnings(), torch.no_grad():  # else torch copies no such layer
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


class Vocoder(nn.Module):
    """HiFi-GAN's generator: weights by hooks, also of what is transposed, and residual blocks that are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_pre, self.conv_post = (
            by_hook(nn.Conv1d(5, 8, 7, 1, padding=3)),
            by_hook(nn.Conv1d(4, 1, 7, padding=3)),
        )
        self.up = by_hook(nn.ConvTranspose1d(8, 4, 4, 2, padding=1))
        self.blocks = nn.ModuleList([by_hook(nn.Conv1d(4, 4, 3, padding=d, dilation=d)) for d in (1, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.leaky_relu(self.conv_pre(x), 0.1))
        total = None
        for block in self.blocks:
            y = x + block(F.leaky_relu(x, 0.1))
            total = y if total is None else total + y
        return torch.tanh(self.conv_post(F.leaky_relu(cast(Tensor, total) / 2)))


class Chomp(nn.Module):
    """Takes off what a causal convolution has too much."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.chomp_size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.chomp_size].contiguous()


class TemporalBlock(nn.Module):
    """A block of Bai's TCN, whose layers are attributes and entries of a chain at once."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.weight_norm
        self.conv1 = normed(nn.Conv1d(inputs, outputs, 2, padding=dilation, dilation=dilation))
        self.conv2 = normed(nn.Conv1d(outputs, outputs, 2, padding=dilation, dilation=dilation))
        self.net = nn.Sequential(self.conv1, Chomp(dilation), nn.ReLU(), self.conv2, Chomp(dilation), nn.ReLU())
        self.downsample = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        res = x if self.downsample is None else self.downsample(x)
        return F.relu(self.net(x) + res)


class TemporalNetwork(nn.Module):
    """Bai's TCN."""

    def __init__(self) -> None:
        super().__init__()
        self.tcn = nn.Sequential(TemporalBlock(5, 8, 1), TemporalBlock(8, 8, 2))
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(self.tcn(x)[:, :, -1]))
