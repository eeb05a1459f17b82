"""Forwards that read, cut and compute with sizes, for tests: a network of two layers around each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Forward = Callable[[Any, torch.Tensor], Any]


class Net(nn.Module):
    """Layers and a table of positions around a forward."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.run = forward
        self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.line, self.cells = nn.Conv1d(5, 8, 3, padding=1), nn.LSTM(5, 8, batch_first=True)
        self.apart = nn.Unflatten(2, (4, 2))
        self.pos = nn.Parameter(torch.randn(1, 32, 8))
        self.register_buffer("causal", torch.ones(32, 32).tril() == 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.run(self, x)
        return out


def _attend(net: Any, x: torch.Tensor) -> Any:
    h = net.inner(x)
    b, t, c = h.shape
    q = h.view(b, t, 2, c // 2).transpose(1, 2)
    weights = (q @ q.transpose(-2, -1)).masked_fill(net.causal[:t, :t], -1e9).softmax(-1)
    return net.head((weights @ q).transpose(1, 2).reshape(b, t, c))


def _windows(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    height, width = h.shape[2:]
    h = F.pad(h, (0, -width % 4, 0, -height % 4))
    b, c, padded_height, padded_width = h.shape
    h = h.view(b, c, padded_height // 4, 4, padded_width // 4, 4).amax((3, 5))
    return F.interpolate(h, size=(height, width))


def _branch(net: Any, x: torch.Tensor) -> Any:
    h = net.inner(x)
    return net.head(h[:, :8]) if x.shape[1] > 8 else net.head(h) * 2


def _steps(net: Any, x: torch.Tensor) -> Any:
    h, total = net.inner(x), 0.0
    for i in range(x.shape[1]):
        total = total + h[:, i] / (i + 1)
    return net.head(total)


def _unet(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    low = F.interpolate(F.max_pool2d(h, 2), size=h.shape[-2:], mode="bilinear")
    return torch.cat([h, low], 1)


def _cropped(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    top, left = (h.shape[2] - 4) // 2, (h.size(-1) - 4) // 2
    return h[:, :, top : top + 4, left : left + 4]


def _even_odd(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    return torch.cat([h[..., ::2, ::2], h[..., 1::2, 1::2]], 1)


def _chunked(net: Any, x: torch.Tensor) -> Any:
    a, b = net.inner(x).chunk(2, dim=1)
    return net.head(a[:, -1] + b[:, 0])


def _halves(net: Any, x: torch.Tensor) -> Any:
    h = net.inner(x)
    half = x.size(-2) // 2
    first, rest = h.split([half, x.size(-2) - half], dim=1)
    return net.head(first.mean(1) - rest.mean(1))


def _pieces(net: Any, x: torch.Tensor) -> Any:
    return sum(net.head(piece).mean(1) for piece in net.inner(x).split(4, 1))


def _unbound(net: Any, x: torch.Tensor) -> Any:
    return sum(net.head(step) for step in net.inner(x).unbind(1))


def _blocks(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    b, c, height, _ = h.shape
    return h.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, height // 2, -1)


def _moments(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    n = h.shape[2] * h.shape[3]
    mean = h.sum((2, 3)) / n
    return mean * (n / (n - 1)) ** 0.5


def _seeded(net: Any, x: torch.Tensor) -> Any:
    h = torch.cat([net.inner(x), torch.zeros(x.shape[0], 1, 8)], 1)
    return net.head(h + torch.arange(h.shape[1]).view(1, -1, 1))


def _grid(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    rows = torch.linspace(-1, 1, h.shape[-2])
    return h * rows[None, None, :, None]


def _window_mask(net: Any, x: torch.Tensor) -> Any:
    h = net.inner(x)
    mask = torch.zeros(int(x.shape[1]))
    mask[: int(x.shape[1]) // 2] = 1
    return net.head(h * mask[:, None])


def _stepwise(net: Any, x: torch.Tensor) -> Any:
    while x.shape[-1] > 4:
        x = F.avg_pool2d(net.first(x)[:, :3], 2)
    return x.mean((2, 3))


def _gathered(net: Any, x: torch.Tensor) -> Any:
    last = torch.full((x.size(0), 1, 8), x.size(1) - 1)
    return net.head(net.inner(x).gather(1, last))


def _classed(net: Any, x: torch.Tensor) -> Any:
    token = net.pos[:, :1].expand(x.shape[0], -1, -1)
    h = torch.cat((token, net.inner(x)), dim=1)
    h = h + net.pos[:, : h.size(1)]
    return net.head(h[:, 0] + h[:, 1:].mean(1))


def _asserted(net: Any, x: torch.Tensor) -> Any:
    assert x.shape[1] <= 32 and x.shape[-1] == 5
    return net.head(net.inner(x) + net.pos[:, : x.shape[1]])


def _shifted(net: Any, x: torch.Tensor) -> Any:
    h = net.inner(x)
    return net.head(h[:, 1:] - h[:, :-1])


def _square(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x).flatten(2).transpose(1, 2)
    side = int(h.shape[1] ** 0.5)
    return h.transpose(1, 2).reshape(x.shape[0], 8, side, side)


def _resampled(net: Any, x: torch.Tensor) -> Any:
    h = net.first(x)
    if h.shape[-2:] != (8, 8):
        h = F.interpolate(h, size=(8, 8))
    return net.second(h)


SEQUENCES: dict[str, Forward] = {
    "from the end by a size": lambda n, x: n.head((n.inner(x) + n.pos[:, -x.shape[1] :]).relu()),
    "last step": lambda net, x: net.head(net.inner(x)[:, -1]),
    "all but the last": lambda net, x: net.head(net.inner(x)[:, :-1]),
    "last entries": lambda net, x: net.inner(x)[..., -1:],
    "last three": lambda net, x: net.head(net.inner(x)[:, -3:]),
    "from the end to the end": lambda net, x: net.head(net.inner(x)[:, -4:-1]),
    "beyond the end": lambda net, x: net.head(net.inner(x)[:, 2:100]),
    "from the second": lambda net, x: net.head(net.inner(x)[:, 1:]),
    "the first eleven": lambda net, x: net.head(net.inner(x)[:, :11]),
    "every second": lambda net, x: net.head(net.inner(x)[:, ::2]),
    "every third from the end": lambda net, x: net.head(net.inner(x)[:, -7::3]),
    "number twelve at most": lambda net, x: net.head(net.inner(x)[:, : x.shape[1] - 1]),
    "one number": lambda net, x: net.head(net.inner(x)[:, x.shape[1] - 1]),
    "middle": lambda net, x: net.head(net.inner(x)[:, x.size(1) // 2]),
    "upper half": lambda net, x: net.head(net.inner(x)[:, x.size(-2) // 2 :]),
    "lstm": lambda net, x: net.head(net.cells(x)[0][:, -1]),
    "lstm select": lambda net, x: net.head(net.cells(x)[0].select(1, -1)),
    "unflatten": lambda net, x: net.inner(x).unflatten(-1, (2, 4)),
    "unflatten rest": lambda net, x: net.inner(x).unflatten(-1, (2, -1)).mean(-1),
    "unflatten steps": lambda net, x: net.inner(x).unflatten(1, (-1, 1)),
    "module unflatten": lambda net, x: net.apart(net.inner(x)),
    "view rest": lambda net, x: net.head(net.inner(x).view(x.shape[0], x.shape[1], -1)),
    "view steps": lambda net, x: net.head(net.inner(x).view(x.shape[0], -1, 8)),
    "flattened": lambda net, x: net.head(net.inner(x).flatten(0, 1)).view(x.size(0), x.size(1), 3),
    "narrow": lambda net, x: net.head(net.inner(x).narrow(1, 1, x.shape[1] - 2)),
    "narrow from the end": lambda net, x: net.head(net.inner(x).narrow(1, -2, 2)),
    "select": lambda net, x: net.head(net.inner(x).select(1, -2)),
    "chunk": _chunked,
    "split": _halves,
    "split in fours": _pieces,
    "unbind": _unbound,
    "unbind last": lambda net, x: net.head(net.inner(x).unbind(1)[-1]),
    "chunk last": lambda net, x: net.head(net.inner(x).chunk(2, 1)[-1]),
    "tensor_split": lambda net, x: net.head(net.inner(x).tensor_split(2, 1)[1]),
    "arange": lambda net, x: net.head(net.inner(x) * torch.arange(x.shape[1])[:, None]),
    "embedded positions": lambda net, x: net.head(net.inner(x) + F.embedding(torch.arange(x.shape[1]), net.pos[0])),
    "roll": lambda net, x: net.head(net.inner(x).roll(1, 1)),
    "roll by half": lambda net, x: net.head(net.inner(x).roll(x.shape[1] // 2, 1)),
    "rolled by cat": lambda net, x: net.inner(torch.cat([x[:, -1:], x[:, :-1]], 1)),
    "flip": lambda net, x: net.head(net.inner(x).flip(1)),
    "positions": lambda net, x: net.head(net.inner(x) + net.pos[:, : x.shape[1]]),
    "class token": _classed,
    "attention": _attend,
    "branch": _branch,
    "loop": _steps,
    "factories": _seeded,
    "window mask": _window_mask,
    "gather": _gathered,
    "assert": _asserted,
    "differences": _shifted,
    "mean by size": lambda net, x: net.head(net.inner(x).sum(1) / x.shape[1]),
    "expand": lambda net, x: net.head(net.inner(x).mean(1, keepdim=True).expand(-1, x.shape[1], -1)),
    "repeat": lambda net, x: net.head(net.inner(x).mean(1, keepdim=True).repeat(1, x.shape[1], 1)),
    "pad to the left": lambda net, x: net.head(F.pad(net.inner(x), (0, 0, 2, 0))[:, : x.shape[1]]),
    "causal convolution": lambda net, x: F.pad(net.line(x.mT), (2, 0))[..., : x.shape[1]],
    "trimmed": lambda net, x: net.line(x.transpose(1, 2))[:, :, 2:-2],
    "pooled": lambda net, x: F.adaptive_avg_pool1d(net.line(x.mT), 3),
    "pooled in halves": lambda net, x: F.adaptive_max_pool1d(net.line(x.mT), x.shape[1] // 2),
    "unfold": lambda net, x: net.inner(x).unfold(1, 3, 2).mean(-1),
    "swap ends": lambda net, x: net.head(torch.stack([net.inner(x)[:, -1], net.inner(x)[:, 0]], 1)),
    "cumulative": lambda net, x: net.head(net.inner(x).cumsum(1)[:, -1]),
    "top": lambda net, x: net.inner(x).topk(2, dim=1)[0],
    "index of a list": lambda net, x: net.head(net.inner(x)[:, [0, -1]]),
    "new axis": lambda net, x: net.head(net.inner(x)[:, None, -1:, :]),
    "two ends": lambda net, x: net.head(net.inner(x)[:, 1:-1:2]),
}
"""Forwards of N,L,5."""


def _counted_windows(net: Any, x: torch.Tensor) -> Any:
    """As Microsoft's Swin counts its samples: by how many windows there are."""
    h = net.first(x)
    height, width = h.shape[2:]
    windows = (
        h.view(-1, 8, height // 4, 4, width // 4, 4).transpose(3, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 8, 4, 4)
    )
    n = int(windows.shape[0] / (height * width / 4 / 4))
    assert isinstance(8, int) and int("8") == 8
    windows = windows.amax(1).view(n, height // 4, width // 4, 4, 4)
    return windows.transpose(2, 3).reshape(int(n), 1, height, width)


IMAGES: dict[str, Forward] = {
    "counted windows": _counted_windows,
    "windows": _windows,
    "skip": _unet,
    "cropped": _cropped,
    "patches": _even_odd,
    "blocks": _blocks,
    "moments": _moments,
    "grid": _grid,
    "halving": _stepwise,
    "square": _square,
    "resampled": _resampled,
    "pixels as steps": lambda net, x: net.first(x).flatten(2).mT[:, -1],
    "no border": lambda net, x: net.first(x)[:, :, 1:-1, 1:-1],
    "last row": lambda net, x: net.first(x)[:, :, -1],
    "adaptive": lambda net, x: F.adaptive_avg_pool2d(net.first(x), (2, None)),
    "global by size": lambda net, x: F.avg_pool2d(net.first(x), x.shape[2:]),
    "global by kernel": lambda net, x: F.avg_pool2d(net.first(x), kernel_size=x.size()[2:]).flatten(1),
    "back": lambda net, x: net.second(net.first(x)).flatten(2).mT.reshape(x.size(0), -1, 4),
    "interpolate by factor": lambda net, x: F.interpolate(net.first(x), scale_factor=2),
    "as large as another": lambda net, x: F.interpolate(net.second(net.first(x)), x.shape[2:]),
    "halved": lambda net, x: F.interpolate(net.first(x), size=(x.shape[2] // 2, x.shape[3] // 2)),
    "to even": lambda net, x: F.pad(net.first(x), (0, x.shape[3] % 2, 0, x.shape[2] % 2)),
    "product by NumPy": lambda net, x: net.first(x).reshape(-1, int(np.prod(net.first(x).shape[1:]))),
    "product": lambda net, x: net.first(x).reshape(-1, math.prod(net.first(x).shape[1:])),
    "rounded": lambda net, x: net.first(x) * round(x.shape[2] / 3),
    "rolled back": lambda net, x: net.first(x).roll((-2, -2), (2, 3)),
}
"""Forwards of N,3,H,W."""
