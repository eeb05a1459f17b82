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
        return (x * y.reshape((n, self.radix, c // self.radix, 1, 1))).sum(dim=1).contiguous()


class Unequal(nn.Module):
    """EdgeNeXt's: the last of the parts of the channels is smaller than the others, which are convolved one after the other."""

    def __init__(self, part: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.part, self.first, self.second = part, nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.part(x)
        a = self.first(a)
        return torch.cat([a, self.second(a + b), c], 1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "patches of a map": lambda: Net(Patches()),
    "global context": lambda: Net(GlobalContext()),
    "split attention": lambda: Net(SplitAttention()),
    "a chunk of unequal parts": lambda: Net(Unequal(lambda x: x.chunk(3, dim=1))),
    "a split with a rest": lambda: Net(Unequal(lambda x: torch.split(x, 3, dim=1))),
}
"""Name -> network, of images of 3 channels."""


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network of one seed, and two samples."""
    torch.manual_seed(0)
    return NETWORKS[name](), torch.randn(2, 3, 16, 16)
