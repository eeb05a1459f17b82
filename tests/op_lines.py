"""Cases of functions along lines and patches, of maps that are expanded over channels, and of products with vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.op_cases import Between, Case, function, images
from tests.op_weights import weights


def _lines(y: Tensor) -> Tensor:
    """Quantiles and differences of lines, and maps that are turned."""
    middle = y.flatten(2).quantile(0.5, dim=-1)[:, :, None, None]
    return y - middle - torch.diff(y, dim=-1).mean(-1, keepdim=True) + torch.rot90(y, 1, (2, 3))


def _waves(y: Tensor) -> Tensor:
    """Fourier transforms along lines and of maps."""
    height, width = y.shape[2:]
    lines: Tensor = torch.fft.irfft(torch.fft.rfft(y, dim=2), n=height, dim=2) + torch.fft.fft(y).abs()
    maps = torch.fft.irfft2(torch.fft.rfft2(y, norm="ortho"), s=(height, width), norm="ortho")
    maps = maps + torch.fft.ifft2(torch.fft.fft2(y)).abs() + torch.fft.ifft(torch.fft.fft(y)).abs()
    maps = maps + torch.fft.irfftn(torch.fft.rfftn(y, dim=(2, 3)), s=(height, width), dim=(2, 3))
    every: Tensor = torch.fft.ifftn(torch.fft.fftn(y, dim=(2, 3)), s=(height, width)).abs()
    total: Tensor = lines + maps + every
    return total


def _resized_waves(y: Tensor) -> Tensor:
    """Maps of sizes that are read as a whole off another."""
    maps: Tensor = torch.fft.irfft2(torch.fft.rfft2(y[..., :5]), s=y.shape[2:])
    again: Tensor = torch.fft.irfftn(torch.fft.rfftn(y, y.shape[2:]), y.shape[2:])
    return maps + again


def _entries(y: Tensor) -> Tensor:
    """Functions of one entry that no other case has."""
    return torch.cos(y) + torch.erf(y) + torch.expm1(y) + torch.reciprocal(y.exp()) + y.sign()


def _put_together(m: Between, y: Tensor) -> Tensor:
    """Maps of patches that are as high as there are channels in another value."""
    other = m.other(y)
    maps: Tensor = F.fold(F.unfold(y, 2, stride=2), other.shape[1:3], 2, stride=2) + m.back(other)
    return maps


LINES: dict[str, Case] = {
    "functions of one entry": function(_entries),
    "quantiles and differences": function(_lines),
    "waves": function(_waves),
    "heads that are repeated": images(
        lambda m, y: m.wide(y)[:, None].flatten(3).unflatten(2, (4, 2)).unsqueeze(2).expand(-1, -1, 3, -1, -1, -1).mean((1, 2, 4))
        .unsqueeze(2).expand(-1, -1, 2, -1).flatten(1, 2).unflatten(2, (6, 6)),
        wide=lambda: nn.Conv2d(8, 8, 1),
    )._replace(free={"first": 8, "wide": 4}),
    "the larger of two parts": images(
        lambda m, y: torch.max(*m.wide(y).chunk(2, 1)), wide=lambda: nn.Conv2d(8, 16, 1)
    )._replace(free={"first": 8, "wide": 8}),
    "patches in rows": function(lambda y: F.fold(F.unfold(y, 2, stride=2), y.shape[2:], (2, 2), stride=2)),
    "waves of the size of another map": function(_resized_waves),
    "patches put together to the size of other channels": images(
        _put_together, other=lambda: nn.Conv2d(8, 6, 1), back=lambda: nn.Conv2d(6, 8, 1)
    ),
    "patches that are weighed": function(
        lambda y: F.unfold(y, (3, 3), padding=1).view(-1, 8, 9, 36).mean(2).view(-1, 8, 6, 6)
    ),
    "patches by modules": images(
        lambda m, y: m.fold(m.unfold(y)), unfold=lambda: nn.Unfold(3, stride=3), fold=lambda: nn.Fold(6, 3, stride=3)
    ),
    "a mean for every channel": function(
        lambda y: y * y.mean(1, keepdim=True).expand(-1, 8, -1, -1) + y.amax(1, True).repeat(1, 8, 1, 1)
    ),
    "by a vector": images(
        lambda m, y: y * torch.softmax((torch.tanh(m.up(y)).permute(0, 2, 3, 1) @ m.scale).flatten(1), 1).view(-1, 1, 6, 6),
        up=lambda: nn.Conv2d(8, 5, 1), scale=weights(5),
    )._replace(free={"first": 8, "up": 5}),
    "outer products": images(
        lambda m, y: y + torch.outer(torch.arange(6.0), m.scale).sin().t().unsqueeze(2) * torch.ger(m.shift, m.turns)[:, :, None],
        scale=weights(8), shift=weights(8), turns=weights(6),
    ),
}  # fmt: skip
"""Name -> case."""
