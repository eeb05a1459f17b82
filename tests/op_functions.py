"""Functions of one value, or two, that `tests.op_networks` puts between two convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def without_part(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 2 : 2 + y.shape[1] // 2].zero_()
    return y + y[:, : y.shape[1] // 2].mean(1, keepdim=True)


def by_names_of_numpy(y: Any) -> Any:
    return y - y.mean(axis=(2, 3), keepdims=True) + y.softmax(dim=3).amax(axis=3, keepdims=True)


def parts_within_heads(y: Tensor) -> Tensor:
    z = y.flatten(2).mT.reshape(-1, 36, 2, 2, 2)
    return (z[..., 0, :] * z[..., 1, :].tanh()).flatten(2).mT.reshape(-1, 4, 6, 6)


def turned_pairs(y: Tensor) -> Tensor:
    """Pairs of neighbours in a row, turned by each other."""
    pairs = torch.view_as_complex(y.reshape(-1, 8, 6, 3, 2))
    return torch.view_as_real(pairs * pairs).flatten(3)


def noise_in_training(y: Tensor) -> Tensor:
    """Random numbers of every kind, none of which counts in eval mode."""
    noise = torch.rand_like(y) * torch.randn_like(y) + torch.rand(y.shape) * torch.randn(y.shape[0], y.shape[1], 1, 1)
    return 0.0 * (noise + torch.bernoulli(y.sigmoid()) + torch.normal(y, y.exp()))


def assigned_parts(y: Tensor) -> Tensor:
    """Rows are set to a number and to others, and positions that a mask chooses to a row."""
    y = y.tanh()
    y[:, :, 0] = 0.5
    y[..., 1:3, :] = y[..., 3:4, :] * 2
    y = y.permute(0, 2, 3, 1)
    y[y.mean(-1) > 0] = 1.0
    return y.permute(0, 3, 1, 2)


def served(y: Tensor, z: Tensor) -> Tensor:
    """Two heads of queries for each head of keys and values."""
    q, k = y.view(-1, 4, 2, 36).mT, z.view(-1, 2, 2, 36).mT
    return F.scaled_dot_product_attention(q, k, k, enable_gqa=True).mT.reshape(-1, 8, 6, 6)
