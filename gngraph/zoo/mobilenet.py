"""MobileNetV2 for small images: the same blocks, with the first two strides taken out.

Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018, table 2. At 32x32 the published
strides would leave a 1x1 image, so the stem and the second stage keep the resolution. Channel counts are scaled without
rounding to multiples of 8: growing changes them one by one anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from gngraph.zoo.spec import Builder, SeedSpec, initialise_convolutions

# (expansion, channels, blocks, stride of the first block)
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


def _pointwise(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel_size=1, bias=False), nn.BatchNorm2d(out)]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; add the input where the shapes agree.

    Input `[N, channels, H, W]`, output `[N, out, H / stride, W / stride]` (rounded up).

    Args:
        channels, out: of the input and of the output.
        stride: of the 3x3 convolution, along both axes.
        expansion: hidden channels per input channel; with 1 there is no expanding layer.
    """

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [] if expansion == 1 else [*_pointwise(channels, hidden), nn.ReLU6()]
        depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, stride=stride, padding=1, groups=hidden, bias=False)
        filtered = [depthwise, nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *filtered, *_pointwise(hidden, out))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block."""
        y = cast(Tensor, self.layers(x))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """A chain of inverted residuals with a linear head.

    Input `[N, C, H, W]`, output `[N, classes]`.
    """

    def __init__(self, spec: SeedSpec) -> None:
        super().__init__()
        channels = spec.scaled(STEM_CHANNELS)
        stem = nn.Conv2d(spec.image()[0], channels, kernel_size=3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU6())
        blocks: list[nn.Module] = []
        for expansion, base, count, stride in MOBILENET_STAGES:
            out = spec.scaled(base)
            for index in range(count):
                blocks.append(InvertedResidual(channels, out, stride if index == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        last = spec.scaled(LAST_CHANNELS)
        self.last = nn.Sequential(*_pointwise(channels, last), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(last, spec.classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `[N, classes]` of images `[N, C, H, W]`."""
        x = self.last(self.blocks(self.stem(x)))
        return cast(Tensor, self.head(torch.flatten(self.pool(x), 1)))


MOBILENETS: Mapping[str, Builder] = {"mobilenet": MobileNet}
