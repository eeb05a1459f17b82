"""What every seed family is built from: width multiplier, number of classes, input shape."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from gngraph.errors import UnsupportedModelError

Image = tuple[int, int, int]
Builder = Callable[["SeedSpec"], nn.Module]


@dataclass(frozen=True)
class SeedSpec:
    """Size of a seed network.

    Attributes:
        width: multiplier of every hidden channel count of the family; 1.0 is the family's own network.
        classes: number of outputs.
        input_shape: shape of one sample without the batch dimension, `(channels, height, width)` for images.

    Raises:
        UnsupportedModelError: a field is not a positive finite number.
    """

    width: float
    classes: int
    input_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.width) and self.width > 0):
            raise UnsupportedModelError(f'the width multiplier must be a positive number, but it is "{self.width}"')
        if self.classes < 1:
            raise UnsupportedModelError(f'a network needs at least 1 class, but "{self.classes}" was asked for')
        if not self.input_shape or min(self.input_shape) < 1:
            raise UnsupportedModelError(
                f'every size of the input shape must be at least 1, but it is "{self.shape_text}"; give it as 3x32x32'
            )

    @property
    def shape_text(self) -> str:
        """The input shape as people write it.

        >>> SeedSpec(1.0, 10, (3, 32, 32)).shape_text
        '3x32x32'
        """
        return "x".join(map(str, self.input_shape))

    def scaled(self, channels: int) -> int:
        """`channels` times the width multiplier, rounded, at least 1.

        >>> SeedSpec(0.25, 10, (3, 32, 32)).scaled(64)
        16
        """
        return max(1, round(channels * self.width))

    def image(self) -> Image:
        """The input shape as `(channels, height, width)`.

        Raises:
            UnsupportedModelError: the input is not an image.
        """
        if len(self.input_shape) != 3:
            raise UnsupportedModelError(
                f'a convolutional network needs an input shape like 3x32x32, but it is "{self.shape_text}";'
                ' choose the seed "mlp" for other shapes'
            )
        channels, height, width = self.input_shape
        return channels, height, width


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known one, or nothing.

    >>> did_you_mean("vgg12", ["vgg11", "mlp"])
    '; did you mean "vgg11"?'
    >>> did_you_mean("transformer", ["vgg11", "mlp"])
    ''
    """
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def initialise_convolutions(module: nn.Module) -> None:
    """Draw every convolution weight of `module` with He's normal rule (fan out), in place.

    Source: He et al., "Delving deep into rectifiers", 2015.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
