"""A U-Net for images with a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from gngraph.zoo.spec import Builder, SeedSpec, initialise_convolutions

CHANNELS = (16, 32, 64, 128)
"""Channels of each resolution, which are multiplied by the width."""


def _block(channels: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with its norm and ReLU."""
    layers: list[nn.Module] = []
    for read in (channels, out):
        layers += [nn.Conv2d(read, out, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images [N, C, H, W] -> scores of the classes of every pixel [N, classes, H, W].

    It halves the image up to three times, as often as height and width are divisible by 2.

    Source: Ronneberger et al., "U-Net", 2015, with batch norms, padding, and nearest-neighbour upsampling.
    """

    def __init__(self, spec: SeedSpec) -> None:
        super().__init__()
        channels, height, width = spec.image()
        halvings = next(
            (n for n in range(len(CHANNELS) - 1) if height % 2 ** (n + 1) or width % 2 ** (n + 1)), len(CHANNELS) - 1
        )
        widths = [spec.scaled(base) for base in CHANNELS[: halvings + 1]]
        self.down = nn.ModuleList(_block(*pair) for pair in zip([channels, *widths], widths, strict=False))
        self.pool, self.upsample = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.up = nn.ModuleList(_block(widths[n] + widths[n - 1], widths[n - 1]) for n in range(halvings, 0, -1))
        self.head = nn.Conv2d(widths[0], spec.classes, kernel_size=1)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every pixel."""
        x = self.down[0](x)
        passed = [x]
        for block in list(self.down)[1:]:
            x = block(self.pool(x))
            passed.append(x)
        for block, skip in zip(self.up, reversed(passed[:-1]), strict=True):
            x = block(torch.cat([self.upsample(x), skip], 1))
        return cast(Tensor, self.head(x))


UNETS: Mapping[str, Builder] = {"unet": UNet}
