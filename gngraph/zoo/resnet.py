"""The residual networks of the CIFAR experiments: three stages of basic blocks with 16, 32 and 64 channels.

Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2; where the shape changes, the
shortcut is a 1x1 convolution with BatchNorm (their option B), so every layer has weights to grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from gngraph.zoo.spec import Builder, SeedSpec, initialise_convolutions

RESNET_DEPTHS: Mapping[str, int] = {"resnet20": 20, "resnet32": 32, "resnet56": 56}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`.

    Input `[N, channels, H, W]`, output `[N, out, H / stride, W / stride]` (rounded up).
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            projection = nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return cast(Tensor, self.relu2(y + self.shortcut(x)))


class ResNet(nn.Module):
    """Residual network of `depth` = 6n + 2 weighted layers.

    Input `[N, C, H, W]`, output `[N, classes]`.
    """

    def __init__(self, depth: int, spec: SeedSpec) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        channels = spec.scaled(16)
        self.conv = nn.Conv2d(spec.image()[0], channels, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        stages: list[nn.Module] = []
        for base, stride in ((16, 1), (32, 2), (64, 2)):
            out = spec.scaled(base)
            first = BasicBlock(channels, out, stride)
            stages.append(nn.Sequential(first, *(BasicBlock(out, out, 1) for _ in range(blocks - 1))))
            channels = out
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, spec.classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `[N, classes]` of images `[N, C, H, W]`."""
        x = self.relu(self.bn(self.conv(x)))
        x = self.pool(self.stages(x))
        return cast(Tensor, self.head(torch.flatten(x, 1)))


RESNETS: Mapping[str, Builder] = {name: partial(ResNet, depth) for name, depth in RESNET_DEPTHS.items()}
