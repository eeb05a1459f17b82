"""VGG with batch normalisation, for small images.

Source: Simonyan and Zisserman, "Very deep convolutional networks", 2015, in the form used for CIFAR: 3x3 convolutions
without bias, BatchNorm, ReLU, max pooling, then global average pooling and one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.spec import Builder, SeedSpec, did_you_mean, initialise_convolutions

# One tuple of channel counts for each resolution; a max pool follows each tuple.
VGG_STAGES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(nn.Module):
    """A plain chain of convolutions with a linear head.

    Input `[N, C, H, W]`, output `[N, classes]`. A pool that would shrink the image below 1x1 is left out, so an 8x8
    image passes through three of the five pools.

    Args:
        stages: channel counts of the convolutions, one inner sequence for each resolution.
        spec: classes and input shape; its width multiplier is not applied.
    """

    def __init__(self, stages: Sequence[Sequence[int]], spec: SeedSpec) -> None:
        super().__init__()
        channels, height, width = spec.image()
        side = min(height, width)
        layers: list[nn.Module] = []
        for stage in stages:
            for out in stage:
                convolution = nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
            if side >= 2:
                layers.append(nn.MaxPool2d(kernel_size=2))
                side //= 2
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, spec.classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `[N, classes]` of images `[N, C, H, W]`."""
        x = self.pool(self.features(x))
        return cast(Tensor, self.head(torch.flatten(x, 1)))


def vgg_with_widths(
    name: str, widths: Sequence[int], *, classes: int, input_shape: tuple[int, ...], seed: int = 0
) -> VGG:
    """The VGG called `name` with the channel count of every convolution given, for example to retrain a grown shape.

    Args:
        name: "vgg11", "vgg13", "vgg16" or "vgg19"; it fixes where the pools lie.
        widths: one channel count for each convolution, first to last.
        classes: number of outputs.
        input_shape: `(channels, height, width)`.
        seed: seed of the initial weights; the global random state is left as it was.

    Raises:
        UnsupportedModelError: `name` is unknown, or `widths` has another length or an entry below 1.

    >>> network = vgg_with_widths("vgg11", [4, 5, 6, 7, 8, 9, 10, 11], classes=10, input_shape=(1, 8, 8))
    >>> network.head
    Linear(in_features=11, out_features=10, bias=True)
    """
    if name not in VGG_STAGES:
        raise UnsupportedModelError(
            f'there is no VGG "{name}", choose from {", ".join(VGG_STAGES)}{did_you_mean(name, VGG_STAGES)}'
        )
    lengths = [len(stage) for stage in VGG_STAGES[name]]
    if len(widths) != sum(lengths) or min(widths) < 1:
        raise UnsupportedModelError(
            f'"{name}" needs {sum(lengths)} widths of at least 1, but "{", ".join(map(str, widths))}" was given'
        )
    rest = iter(widths)
    stages = [[next(rest) for _ in range(length)] for length in lengths]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return VGG(stages, SeedSpec(1.0, classes, input_shape))


def _build(name: str, spec: SeedSpec) -> VGG:
    return VGG([[spec.scaled(channels) for channels in stage] for stage in VGG_STAGES[name]], spec)


VGGS: Mapping[str, Builder] = {name: partial(_build, name) for name in VGG_STAGES}
