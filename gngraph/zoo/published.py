"""What is published with a network of another library, and how such networks are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.spec import SeedSpec


class Weights(Enum):
    """What a network of another library begins with."""

    NEW = "new"
    """Initial weights at random."""
    PRETRAINED = "pretrained"
    """Those that its library publishes, fetched where they are not on this machine; a head for other classes is new."""


@dataclass(frozen=True)
class Published:
    """How a network was trained by those who published it.

    Attributes:
        input_shape: of one sample.
        classes: that it tells apart.
        mean, std: of a colour channel in [0, 1], which are subtracted and divided by; None where its inputs are no images.
        output: the tensor to keep of what it returns; None: it returns one.
    """

    input_shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None


@dataclass(frozen=True)
class Library:
    """Networks by the names that another library has for them.

    Attributes:
        published: what is published with a name.
        build: the network of a name for classes and an input shape, its initial weights drawn from torch's global stream.
    """

    published: Callable[[str], Published]
    build: Callable[[str, SeedSpec, Weights], nn.Module]


def refused(name: str, weights: Weights, error: BaseException) -> UnsupportedModelError:
    """What to tell of a network that its library did not give.

    Args:
        name: of the network.
        weights: that were asked for.
        error: what the library, the hub or the connection raised.
    """
    reason = f"({type(error).__name__}: {first_line(error)})"
    if weights is Weights.PRETRAINED:
        return UnsupportedModelError(
            f'the weights of "{name}" could not be fetched {reason}; check the connection, or leave --pretrained out'
        )
    return UnsupportedModelError(f'"{name}" could not be made {reason}; choose another input shape')


def first_line(error: BaseException) -> str:
    """What an error says, in one line without a full stop.

    >>> first_line(ValueError("no such file.\\nTry again."))
    'no such file'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".!")
