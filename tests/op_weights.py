"""Parts of the op networks that compute weights, or take entries by several numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


def weights(*shape: int) -> Callable[[], nn.Parameter]:
    """Makes a parameter of a shape."""
    return lambda: nn.Parameter(torch.randn(shape) * 0.5)


class Standardised(nn.Module):
    """A convolution of filters without mean and of one variance, with a gain as in NFNets, or without one."""

    def __init__(self, rank: int, read: int, written: int, groups: int = 1, *, gain: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(written, read // groups, *[3] * rank) + 0.3)
        self.bias = nn.Parameter(torch.randn(written))
        self.gain = nn.Parameter(torch.randn(written, *[1] * (rank + 1))) if gain else None
        self.groups, self.convolve = groups, (F.conv1d, F.conv2d, F.conv3d)[rank - 1]

    def forward(self, x: Tensor) -> Tensor:
        gain = None if self.gain is None else (self.gain * 0.4).view(-1)
        filters = self.weight.reshape(1, self.weight.shape[0], -1)
        weight = F.batch_norm(filters, None, None, weight=gain, training=True, momentum=0.0, eps=1e-4)
        return self.convolve(x, weight.reshape_as(self.weight), self.bias, padding=1, groups=self.groups)


class StandardisedSteps(nn.Module):
    """All ranks of them, two of groups, with and without a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.line = Standardised(2, 8, 6), Standardised(1, 6, 4, gain=False)
        self.groups, self.depths = Standardised(2, 4, 6, 2), Standardised(3, 6, 8, gain=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(self.flat(x).relu().flatten(2)).unflatten(2, (6, 6))
        return cast(Tensor, self.depths(self.groups(x.tanh()).unflatten(2, (2, 3))).flatten(2, 3))


def normalised_steps() -> nn.Module:
    """Weights of a direction and a length: layers of all ranks."""
    lines, depths = nn.Sequential(nn.Flatten(2), weight_norm(nn.Conv1d(6, 4, 3, padding=1))), nn.Unflatten(2, (2, 3, 6))
    layers = [
        weight_norm(nn.Conv2d(8, 6, 1)),
        nn.ReLU(),
        lines,
        nn.Tanh(),
        depths,
        weight_norm(nn.Conv3d(4, 5, 1, bias=False)),
    ]
    return nn.Sequential(
        *layers, nn.Tanh(), nn.Flatten(), weight_norm(nn.Linear(5 * 36, 7)), nn.Unflatten(1, (7, 1, 1))
    )


def transposed_steps() -> nn.Module:
    """The same of transposed convolutions of all ranks, where a length is that of a channel that is read, and of groups."""
    lines = nn.Sequential(
        nn.Flatten(2), weight_norm(nn.ConvTranspose1d(6, 4, 3, padding=1)), nn.Unflatten(2, (2, 3, 6))
    )
    return nn.Sequential(
        *(weight_norm(nn.ConvTranspose2d(8, 6, 1)), nn.ReLU(), lines, nn.Tanh()),
        *(weight_norm(nn.ConvTranspose3d(4, 6, 1, bias=False)), nn.Flatten(2), nn.Tanh()),
        *(weight_norm(nn.ConvTranspose1d(6, 6, 1, groups=2)), nn.Unflatten(2, (6, 6))),
    )


class FormedSteps(nn.Module):
    """Weights that are put together of parameters, in convolutions of all ranks and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.line, self.more = weights(6, 8, 3, 3)(), weights(4, 6, 1)(), weights(4, 6, 1)()
        self.deep, self.bias, self.gain = weights(5, 4, 1, 1, 1)(), weights(5)(), nn.Parameter(torch.tensor(0.5))
        self.weight, self.up, self.down = weights(7, 180)(), weights(7, 3)(), weights(3, 180)()
        self.left, self.right = weights(6, 2)(), weights(7, 2)()

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x.relu(), self.flat * 0.3, padding=1).tanh().flatten(2)
        x = F.conv1d(x, self.line - self.gain * self.more / 2).reshape(-1, 4, 2, 3, 6)
        x = F.conv3d(x.relu(), 0.7 * self.deep, self.bias).flatten(1)
        x = F.linear(x, self.weight + self.up @ self.down * 0.1).tanh()
        return F.linear(x, torch.matmul(self.left, self.right.t()))[:, :, None, None]


class ByNumbers(nn.Module):
    """Entries by the numbers of several tensors, beside each other and apart."""

    def __init__(self) -> None:
        super().__init__()
        for name, numbers in (("rows", [0, 2, 1]), ("columns", [[3], [1]]), ("others", [5, 0, 1])):
            self.register_buffer(name, torch.tensor(numbers))
        self.rows: Tensor
        self.columns: Tensor
        self.others: Tensor

    def forward(self, y: Tensor) -> Tensor:
        apart = y.permute(0, 2, 1, 3)[:, self.rows, :, self.others].amax(0)  # [N, 8]
        return y[:, :, self.rows, self.columns] + y[..., self.rows][:, :, :2] + apart[:, :, None, None]


class MaskedSteps(nn.Module):
    """Weights that are multiplied by masks, entry by entry, biases that are put together, and both by noise while training."""

    mask: Tensor
    kept: Tensor
    noise: Tensor
    drift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.weight, self.bias = weights(6, 8, 3, 3)(), weights(9, 6)(), weights(9)()
        self.mean, self.sigma, self.shift, self.spread = weights(7, 9)(), weights(7, 9)(), weights(7)(), weights(7)()
        self.register_buffer("mask", (torch.rand(6, 8, 3, 3) > 0.3).float())
        self.register_buffer("kept", (torch.rand(9, 6) > 0.3).float())
        self.register_buffer("noise", torch.randn(7, 9))
        self.register_buffer("drift", torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x.relu(), self.mask * self.flat * 0.3, padding=1).mean((2, 3))
        x = F.linear(x, self.weight * self.kept, self.bias * 0.5).tanh()
        weight: Tensor = self.mean
        bias: Tensor = self.shift
        if self.training:
            weight, bias = weight + self.sigma * self.noise, bias + self.spread * self.drift
        return F.linear(x, weight, bias)[:, :, None, None]
