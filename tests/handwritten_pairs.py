"""Networks that compare two things, or read words as pictures, as people write them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

THINGS = 13
"""How many there are of users, of items and of words."""


class Towers(nn.Module):
    """A tower for each of two things, and the product of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(THINGS, 12), nn.Embedding(THINGS, 12)
        self.user = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10))
        self.item = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, (self.user(self.users(x[:, 0])) * self.item(self.items(x[:, 1]))).sum(-1))


class Factors(nn.Module):
    """Matrix factorisation with biases, of an item that was taken and one that was not."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(THINGS, 40), nn.Embedding(THINGS, 40)
        self.bias = nn.Embedding(THINGS, 1)

    def forward(self, x: Tensor) -> Tensor:
        user, taken, other = self.users(x[:, 0]), self.items(x[:, 1]), self.items(x[:, 2])
        difference = torch.sum(user * taken, dim=1) - torch.sum(user * other, dim=1)
        return torch.sigmoid(difference + (self.bias(x[:, 1]) - self.bias(x[:, 2])).squeeze())


class WordPictures(nn.Module):
    """Kim's convolutions over words: kernels that span the whole of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(THINGS, 16)
        self.convs = nn.ModuleList(nn.Conv2d(1, 12, (k, 16)) for k in (2, 3, 4))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).unsqueeze(1)
        maps = [F.relu(conv(y)).squeeze(3) for conv in self.convs]
        pooled = [F.max_pool1d(m, m.size(2)).squeeze(2) for m in maps]
        return cast(Tensor, self.head(self.drop(torch.cat(pooled, 1))))


class Correlation(nn.Module):
    """Stereo matching: maps of two pictures, compared group by group at every shift."""

    def __init__(self, groups: int, shifts: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1)
        self.merge, self.head = nn.Conv3d(groups, 8, 3, padding=1), nn.Conv3d(8, 1, 3, padding=1)
        self.groups, self.shifts = groups, shifts

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x[:, :3]), self.right(x[:, 3:])
        costs = [self.compared(left[..., i:], right[..., : right.shape[3] - i]) for i in range(self.shifts)]
        volume = torch.stack([F.pad(cost, (i, 0)) for i, cost in enumerate(costs)], 2)
        return cast(Tensor, self.head(torch.relu(self.merge(volume))).squeeze(1))

    def compared(self, a: Tensor, b: Tensor) -> Tensor:
        n, c, h, w = a.shape
        return (a * b).view(n, self.groups, c // self.groups, h, w).mean(dim=2)
