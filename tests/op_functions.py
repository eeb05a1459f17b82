"""Functions of one value, or two, that `tests.op_networks` puts between two convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
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


def functions_of_one(y: Tensor) -> Tensor:
    """Element-wise functions of one value, and truth values."""
    y = y.tanh() * 0.4 + 0.5
    sums = [y.acos() + y.asin() + y.atan() + y.sinh() + y.cosh(), y.tan() + y.asinh() + y.atanh() + torch.acosh(y + 1)]
    sums += [
        torch.log2(y) + y.log10() + torch.exp2(y) + torch.sinc(y),
        torch.erfc(y) + torch.erfinv(y) + torch.special.expit(y),
    ]
    sums += [
        y.floor() + y.ceil() + torch.trunc(y) + torch.frac(y),
        torch.round(y) + torch.logit(y, eps=1e-3),
    ]
    sums += [torch.nan_to_num(y, 1.0), y.clamp_min(0.4) + torch.clamp_max(y, 0.6), (~(y > 0.5)) + y.isnan() + y.isinf()]
    return torch.where(torch.logical_not(y > 0.5) & torch.isfinite(y), sum(sums, y), y)


def functions_of_two(y: Tensor) -> Tensor:
    """Element-wise functions of two values, or of one and a number."""
    z = y.exp() + 0.1
    sums = [
        torch.atan2(y, z) + torch.copysign(z, y) + torch.hypot(y, z),
        torch.fmax(y, z) + torch.fmin(y, z * 0.5) + torch.fmod(y, z),
    ]
    sums += [
        torch.logaddexp(y, z) + torch.logaddexp2(y, z) + torch.xlogy(y, z),
        torch.heaviside(y, z) + y % 0.5 + y // z,
    ]
    chosen = ((y > 0) | (z < 1)) ^ (torch.logical_and(y > -1, z > 0.2) & torch.logical_or(y < 1, z < 2))
    return sum(sums, torch.max(y, z) + torch.min(y, z)) * torch.logical_xor(chosen, y > z)


def functions_along_rows(y: Tensor) -> Tensor:
    """What runs along an axis, takes a triangle of two, or makes one number of an axis."""
    y = y.tanh()
    runs = y.cumsum(2) + torch.cumprod(y, 3) + torch.logcumsumexp(y, 2) + torch.cummax(y, 3)[0] * torch.cummin(y, 2)[1]
    order = torch.sort(y, 2, descending=True)[0] * y.argsort(3) + y.tril() + torch.triu(y, 1)
    return (
        runs
        + order
        + y.prod(3, keepdim=True) * y.median(2, keepdim=True)[0] * (y > 0).any(3, True)
        + (y > 0).all(2, True)
    )


def other_spellings(y: Tensor) -> Tensor:
    """Axes that are moved, and stretches and entries that are taken, by functions that have others for a name."""
    y = torch.movedim(y.tanh(), 1, -1).moveaxis((3, 1), (1, 2)).swapdims(2, 3)
    rows = torch.index_select(y, 3, torch.tensor([0, 2, 1, 3, 5, 4])) * torch.broadcast_to(y[..., :1], (-1, -1, 6, 6))
    return rows + y.narrow(3, 1, 1) * torch.select(y, 2, -1).unsqueeze(2)


def sampled_places(y: Tensor) -> Tensor:
    """Maps that are sampled at computed places, and put back where the largest of them stood."""
    theta = y.mean((1, 2, 3))[:, None, None] * torch.ones(1, 2, 3)
    y = F.grid_sample(y, F.affine_grid(theta, list(y.size()), align_corners=False), align_corners=False)
    pooled, places = F.max_pool2d(y, 2, return_indices=True)
    y = F.max_unpool2d(pooled.tanh(), places, (2, 2), output_size=y.shape[-2:])
    line, places = F.max_pool1d(y.flatten(2), 3, return_indices=True)
    y = y + F.max_unpool1d(line, places, (3,)).view_as(y)
    body, places = F.max_pool3d(y.unsqueeze(2), (1, 2, 3), return_indices=True)
    return y + F.max_unpool3d(body, places, (1, 2, 3)).squeeze(2)


def regions(m: Any, y: Any) -> Any:
    """Convolutions at computed places, and a region of every map."""
    offset, mask = m.offset(y.tanh()).split([18, 9], 1)
    y = m.part(y.tanh(), offset, mask.sigmoid()) + m.part(y, offset)
    y = torchvision.ops.deform_conv2d(y, offset, m.weight, padding=(1, 1), mask=mask)
    numbers = torch.arange(y.size(0), dtype=y.dtype).view(-1, 1)
    boxes = torch.cat([numbers, torch.tensor([[1.0, 0.0, 4.0, 5.0]]).to(y).expand(y.size(0), -1)], 1)
    return torchvision.ops.roi_align(y, boxes, 6) + m.pool(y, boxes)


def scattered_rows(y: Tensor) -> Tensor:
    """Rows that are added and put where numbers say, as messages are at the ends of edges, and a part from the end by a size."""
    ends = torch.tensor([0, 2, 2, 5, 1, 0])
    y = y.tanh().index_add(2, ends, y) + torch.index_copy(y, 3, torch.tensor([3, 1]), y[..., :2].tanh())
    places = y.argmax(3, keepdim=True).expand(-1, -1, -1, y.size(3))
    summed = torch.zeros_like(y).scatter_add(3, places, y) + y.scatter(2, places, y.cos())
    largest = torch.scatter_reduce(y, 3, places, y.sin(), "amax", include_self=False)
    return summed + largest[:, :, :, -y[..., 1:].size(3) :].mean(3, keepdim=True)
