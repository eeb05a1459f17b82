"""Tiny networks that do what those of timm do: patches of maps, gates by context, split attention, unequal parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """A convolution to 8 channels, a block, and a head behind it.

    Args:
        block: takes maps of 8 channels to maps of `behind`.
        behind: its channels.
    """

    def __init__(self, block: nn.Module, behind: int = 8) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, 2, 1), block
        self.last, self.head = nn.Conv2d(behind, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.last(self.block(F.relu(self.stem(x)))))
        return cast(Tensor, self.head(x.mean((2, 3))))


class Patches(nn.Module):
    """MobileViT's: the pixels at one place of all patches are a sequence, and the channels go with the batch on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.up, self.down = nn.Conv2d(8, 6, 1), nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.out = nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        p, y = 2, self.into(x)
        n, c, h, w = y.shape
        rows, columns = h // p, w // p
        y = y.reshape(n * c * rows, p, columns, p).transpose(1, 2)
        y = y.reshape(n, c, rows * columns, p * p).transpose(1, 3).reshape(n * p * p, rows * columns, -1)
        y = y + self.down(F.gelu(self.up(self.norm(y))))
        y = y.contiguous().view(n, p * p, rows * columns, -1)
        y = y.transpose(1, 3).reshape(n * c * rows, columns, p, p)
        y = y.transpose(1, 2).reshape(n, c, rows * p, columns * p)
        return x + cast(Tensor, self.out(y))


class GlobalContext(nn.Module):
    """A gate by a mean that is weighted by attention of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.up, self.down = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = F.softmax(self.attend(x).reshape(n, 1, h * w), dim=-1).unsqueeze(3)
        context = (x.reshape(n, c, h * w).unsqueeze(1) @ weights).view(n, c, 1, 1)
        return x * torch.sigmoid(self.down(F.relu(self.up(context))))


class SplitAttention(nn.Module):
    """ResNeSt's: two halves of the channels, weighted against each other."""

    def __init__(self, radix: int = 2) -> None:
        super().__init__()
        self.radix = radix
        self.conv = nn.Conv2d(8, 8 * radix, 3, 1, 1, groups=radix)
        self.up, self.down = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 8 * radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        n, c, h, w = x.shape
        x = x.reshape((n, self.radix, c // self.radix, h, w))
        y = self.down(F.relu(self.up(x.sum(dim=1).mean((2, 3), keepdim=True))))
        y = F.softmax(y.view(n, 1, self.radix, -1).transpose(1, 2), dim=1).reshape(n, -1).view(n, -1, 1, 1)
        y = y.reshape((n, self.radix, c // self.radix, 1, 1))
        return (x * y).sum(dim=1).contiguous()


class SpatialAttention(nn.Module):
    """CBAM's: positions are weighted by the mean and the largest of the channels there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(2, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        y = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.gate(y))


class Unequal(nn.Module):
    """EdgeNeXt's: the last of the parts of the channels is smaller than the others, which are convolved one after the other."""

    def __init__(self, part: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.part, self.first, self.second = part, nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.part(x)
        a = self.first(a)
        return torch.cat([a, self.second(a + b), c], 1)


class PaddedShortcut(nn.Module):
    """The ResNet of CIFAR: a shortcut takes every second position, and zeros for the channels that are new."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])
        self.narrow = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        y += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 16 // 4, 16 // 4), "constant", 0)
        return x + F.max_pool2d(self.narrow(F.relu(y)), kernel_size=y.size()[2:])


class BesideSamples(nn.Module):
    """Attention whose heads go with the samples along one axis, in one of the spellings of the repositories.

    Args:
        attend: what attends; its arguments are the module, and queries, keys and values as tokens, [N, T, 8].
    """

    def __init__(self, attend: Callable[[BesideSamples, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend, self.heads, self.size = attend, 2, 4
        self.norm, self.q, self.k, self.v = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x.flatten(2).transpose(1, 2))
        y = self.out(self.attend(self, self.q(y), self.k(y), self.v(y)))
        return x + cast(Tensor, y.transpose(1, 2).reshape(n, c, h, w))


def by_bmm(m: BesideSamples, *qkv: Tensor) -> Tensor:
    """Bloom's: heads before tokens, the samples found by dividing again."""
    n, t, _ = qkv[0].shape
    q, k, v = (y.view(n, t, m.heads, m.size).transpose(1, 2).reshape(n * m.heads, t, m.size) for y in qkv)
    y = torch.bmm(F.softmax(torch.bmm(q, k.transpose(1, 2)) / 2, dim=-1), v)
    samples = y.shape[0] // m.heads
    y = y.view(samples, m.heads, t, m.size).permute(0, 2, 1, 3)
    return y.reshape(samples, t, m.heads * m.size)


def tokens_first(m: BesideSamples, *qkv: Tensor) -> Tensor:
    """As torch's own module does it, tokens before samples."""
    n, t, _ = qkv[0].shape
    q, k, v = (y.transpose(0, 1).contiguous().view(t, n * m.heads, m.size).transpose(0, 1) for y in qkv)
    y = torch.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1) @ v
    return y.transpose(0, 1).contiguous().view(t, n, m.heads * m.size).transpose(0, 1)


def of_maps(m: BesideSamples, *qkv: Tensor) -> Tensor:
    """BoTNet's: channels of maps are cut in heads, with as many samples as it takes."""
    n, t, c = qkv[0].shape
    q, k, v = (y.transpose(1, 2).reshape(-1, m.size, t).transpose(-1, -2) for y in qkv)
    y = (q @ k.transpose(-1, -2) * 0.5).softmax(dim=-1) @ v
    return y.transpose(-1, -2).reshape(n, c, t).transpose(1, 2)


def fused(m: BesideSamples, *qkv: Tensor) -> Tensor:
    """Heads and samples along one axis of torch's fused attention."""
    n, t, _ = qkv[0].shape
    q, k, v = (y.view(n, t, m.heads, m.size).permute(0, 2, 1, 3).flatten(0, 1) for y in qkv)
    y = F.scaled_dot_product_attention(q, k, v)
    y = y.view(n, m.heads, t, m.size).transpose(1, 2)
    return y.flatten(2)


class Halo(nn.Module):
    """HaloNet's: blocks of a map attend to windows around them, heads with the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.block, self.halo = 2, 4, 1
        self.q, self.kv = nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(8, 14, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        b, window = self.block, self.block + 2 * self.halo
        rows, columns = h // b, w // b
        q = self.q(x).reshape(-1, 3, rows, b, columns, b).permute(0, 1, 3, 5, 2, 4)
        q = q.reshape(n * self.heads, 3, -1, rows * columns).transpose(1, 3)
        kv = F.pad(self.kv(x), [self.halo] * 4).unfold(2, window, b).unfold(3, window, b)
        kv = kv.reshape(n * self.heads, 7, rows * columns, -1).permute(0, 2, 3, 1)
        k, v = torch.split(kv, [3, 4], dim=-1)
        y = ((q @ k.transpose(-1, -2) * 0.6).softmax(dim=-1) @ v).transpose(1, 3)
        y = y.reshape(-1, b, b, rows, columns).permute(0, 3, 1, 4, 2).contiguous()
        return x + cast(Tensor, y.view(n, 8, h, w))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "patches of a map": lambda: Net(Patches()),
    "global context": lambda: Net(GlobalContext()),
    "split attention": lambda: Net(SplitAttention()),
    "heads beside samples, by bmm": lambda: Net(BesideSamples(by_bmm)),
    "heads beside samples, tokens first": lambda: Net(BesideSamples(tokens_first)),
    "heads beside samples, of maps": lambda: Net(BesideSamples(of_maps)),
    "heads beside samples, fused": lambda: Net(BesideSamples(fused)),
    "windows around blocks": lambda: Net(Halo()),
    "spatial attention": lambda: Net(SpatialAttention()),
    "zeros around a shortcut": lambda: Net(PaddedShortcut()),
    "a chunk of unequal parts": lambda: Net(Unequal(lambda x: x.chunk(3, dim=1))),
    "a split with a rest": lambda: Net(Unequal(lambda x: torch.split(x, 3, dim=1))),
}
"""Name -> network, of images of 3 channels."""


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network of one seed, and two samples."""
    torch.manual_seed(0)
    return NETWORKS[name](), torch.randn(2, 3, 16, 16)
