"""Tiny transformers, written by hand: streams that norms count, before the branches or behind the sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

Norm = Callable[[int], nn.Module]


class HandRMSNorm(nn.Module):
    """Llama's norm, as it is written in most repositories."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class HandLayerNorm(nn.Module):
    """LayerNorm by its mean and variance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(spread + 1e-5) * self.scale + self.shift


class Attention(nn.Module):
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A block that norms what its branches read, or, with `post`, what it passes on."""

    def __init__(self, width: int, norm: Norm, post: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.post = norm(width), norm(width), post
        self.attention = Attention(width, 2, causal)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attention(x))
            y: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
            return y
        x = x + self.attention(self.norm1(x))
        z: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return z


class ViT(nn.Module):
    """Patches, a class token and learned positions, on images of 3x8x8."""

    def __init__(self, norm: Norm = nn.LayerNorm, post: bool = False, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.Sequential(*(Block(width, norm, post) for _ in range(2)))
        self.norm, self.head = norm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        y: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return y


class GPT(nn.Module):
    """Embeddings of 11 words and of 6 positions, the former read again by the head where it is tied."""

    def __init__(self, norm: Norm = nn.LayerNorm, tied: bool = True, width: int = 8) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Embedding(6, width)
        self.blocks = nn.ModuleList(Block(width, norm, causal=True) for _ in range(2))
        self.norm, self.head = norm(width), nn.Linear(width, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            y = block(y)
        z: Tensor = self.head(self.norm(y))
        return z


class Merged(nn.Module):
    """Patch merging as Swin does it: four neighbours in a row, a norm over all, a narrower layer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, width, 2, 2), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 6), nn.Linear(6, width)
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        self.last, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self.down(F.gelu(self.up(self.first(x))))
        parts = [x[:, i::2, j::2, :] for i in (0, 1) for j in (0, 1)]
        x = self.reduce(self.norm(torch.cat(parts, -1)))
        y: Tensor = self.head(self.last(x).mean((1, 2)))
        return y


class ConvNeXt(nn.Module):
    """A depthwise convolution between stream and norm, a layer scale behind the branch, a norm before the next stage."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, width, 2, 2), nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.between = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 7), nn.Linear(7, width)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.next = nn.Conv2d(width, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        z: Tensor = self.next(self.between(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))
        return z


class PoolFormer(nn.Module):
    """Norms over channels and positions together before pooling and layers of one step, as in PoolFormer and MobileViTv2."""

    def __init__(self, norm: Norm = lambda width: nn.GroupNorm(1, width), width: int = 5) -> None:
        super().__init__()
        self.stem, self.norm, self.between = nn.Conv2d(3, width, 2, 2), norm(width), norm(width)
        self.up, self.down, self.next = nn.Conv2d(width, 7, 1), nn.Conv2d(7, width, 1), nn.Conv2d(width, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        x = x + F.avg_pool2d(y, 3, 1, 1) - y
        x = x + self.down(F.gelu(self.up(self.between(x))))
        z: Tensor = self.next(x).mean((2, 3))
        return z


class WeightNormed(nn.Module):
    """A stream that a layer with weight norm writes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = weight_norm(nn.Conv2d(3, 5, 2, 2)), nn.LayerNorm(5)
        self.up, self.head = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.gelu(self.up(self.norm(self.stem(x).permute(0, 2, 3, 1)))).mean((1, 2)))
        return y


class ReadBare(nn.Module):
    """A layer that reads a stream as it is, and writes into it behind the norm that counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.mix, self.head, self.last = nn.Linear(8, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        out: Tensor = self.head(self.norm(x).mean(1)) + self.last((x + self.mix(x)).tanh().mean(1))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": ViT,
    "vit rms": lambda: ViT(nn.RMSNorm),
    "vit without biases": lambda: ViT(lambda width: nn.LayerNorm(width, bias=False)),
    "vit without weights": lambda: ViT(lambda width: nn.LayerNorm(width, elementwise_affine=False)),
    "vit by hand": lambda: ViT(HandLayerNorm),
    "llama": lambda: GPT(HandRMSNorm, tied=False),
    "gpt": lambda: GPT(tied=False),
    "post-norm": lambda: ViT(post=True),
    "post-norm rms": lambda: ViT(nn.RMSNorm, post=True),
    "merged": Merged,
    "convnext": ConvNeXt,
    "weight norm": WeightNormed,
    "read bare": ReadBare,
    "poolformer": PoolFormer,
    "poolformer without weights": lambda: PoolFormer(lambda width: nn.GroupNorm(1, width, affine=False)),
}
"""Name -> a network whose stream is free."""

PLAIN = {"vit": 8, "vit rms": 8, "vit without biases": 8, "gpt": 8, "post-norm rms": 8, "read bare": 8}
"""Those whose norms stay norms when the stream gets new channels, with its width."""


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network, every parameter of it random, and two samples."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return network, torch.randint(0, 11, (2, 6)) if isinstance(network, GPT) else torch.randn(2, 3, 8, 8)
