"""How stored samples become network inputs: what is divided, subtracted and resized, and where those numbers come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gngraph.errors import DataError

_CHUNK = 1024  # samples converted to floating point at a time while computing statistics: bounds the memory

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of a colour channel in [0, 1] that most published image networks were trained with."""


class Preparation(Protocol):
    """What stands between stored samples and network inputs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, (C, H, W) or (F,)."""
        ...

    def __call__(self, raw: Tensor) -> Tensor:
        """Inputs float32 [B, *shape] from stored samples, uint8 or float32 [B, ...]."""
        ...

    def record(self) -> dict[str, Any]:
        """What is done, as JSON: kept beside the network in archives and exports."""
        ...

    @property
    def text(self) -> str:
        """What is done, in a few words."""
        ...


@dataclass(frozen=True)
class Preprocess:
    """Turns stored samples into network inputs: resize, spread grey over the channels, (raw / scale - mean) / std.

    An exported model expects exactly this preprocessing, so it is data, not code.

    Attributes:
        scale: what a stored number is divided by: the largest value of a stored integer (255 for bytes), 1 for floats.
        mean: per channel (or per feature of a table), in units of raw / scale.
        std: likewise; 1 where a channel is constant.
        shape: what the network sees, (C, H, W), (F,), or of sequences (C, L) or (L, C).
        axis: which axis of `shape` the channels are.

    Example:
        >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
        >>> Preprocess(scale=255.0, mean=(0.0,), std=(0.25,), shape=(1, 1, 1))(pixels).flatten().tolist()
        [0.0, 4.0]
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, ...]
    axis: int = 0

    def __call__(self, raw: Tensor) -> Tensor:
        """Converts a batch.

        Args:
            raw: uint8 or float32 [B, C', H', W'] with C' equal to C or 1, or [B, F].

        Returns:
            float32 [B, *shape] on the device of `raw`.
        """
        x = resized(raw.to(torch.float32), self.shape)
        mean = torch.tensor(self.mean, dtype=torch.float64)
        std = torch.tensor(self.std, dtype=torch.float64)
        per_channel = (-1,) + (1,) * (len(self.shape) - 1 - self.axis)
        factor = (1 / (self.scale * std)).to(x).reshape(per_channel)
        offset = (-mean / std).to(x).reshape(per_channel)
        return torch.addcmul(offset, x, factor)

    def record(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: Any) -> Preprocess:
        """The preparation that `record` gave.

        Raises:
            DataError: it is no such record.
        """
        try:
            made = cls(
                float(record["scale"]),
                _numbers(record["mean"]),
                _numbers(record["std"]),
                tuple(int(size) for size in record["shape"]),
                int(record.get("axis", 0)),
            )
            fits = len(made.mean) == len(made.std) == made.shape[made.axis] and min(made.shape) > 0
            fits = fits and 0 < made.scale < math.inf and min(made.std) > 0
        except (TypeError, KeyError, ValueError, IndexError):
            fits = False
        if not fits:
            raise DataError(f"the record '{str(record)[:80]}' is not that of a preprocessing: scale, mean, std, shape")
        return made

    @property
    def text(self) -> str:
        """The formula with its numbers, those of many channels left out.

        >>> Preprocess(255.0, (0.5, 0.25), (1.0, 1.0), (2, 4, 4)).text
        '(raw / 255 - (0.5, 0.25)) / 1'
        >>> Preprocess(1.0, (0.0,), (1.0,), (1, 4, 4)).text
        'as stored'
        """
        scaled = "raw" if self.scale == 1 else f"raw / {self.scale:g}"
        if not any(self.mean) and set(self.std) == {1.0}:
            return "as stored" if self.scale == 1 else scaled
        return f"({scaled} - {_shown(self.mean)}) / {_shown(self.std)}"


@dataclass(frozen=True)
class OwnTransform:
    """A function of the user's own from stored samples to network inputs.

    Attributes:
        function: maps stored samples, uint8 or float32 [B, ...], to float32 [B, *shape].
        shape: of one input.
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def __call__(self, raw: Tensor) -> Tensor:
        """Converts a batch.

        Raises:
            DataError: the function does not give float inputs of `shape`, one a sample.
        """
        x = self.function(raw)
        if not isinstance(x, Tensor) or tuple(x.shape) != (len(raw), *self.shape) or not x.is_floating_point():
            found = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a '{type(x).__name__}'"
            raise DataError(
                f"the transform '{self.text}' gives {found} for {len(raw)} samples: it must give floating-point numbers "
                f"of shape {(len(raw), *self.shape)}"
            )
        return x.to(torch.float32)

    def record(self) -> dict[str, Any]:
        """The function's name: code is not kept."""
        return {"transform": self.text, "shape": list(self.shape)}

    @property
    def text(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__qualname__", type(self.function).__name__))


class Normalization(Protocol):
    """How the preparation is found."""

    def __call__(self, raw: Tensor, scale: float, shape: tuple[int, ...], axis: int = 0) -> Preparation:
        """The preparation.

        Args:
            raw: the stored training samples, uint8 or float32 [N, ...].
            scale: what they are divided by, 255 for bytes and 1 for floats.
            shape: of a network input.
            axis: which axis of `shape` the channels are.
        """
        ...


def measured(raw: Tensor, scale: float, shape: tuple[int, ...], axis: int = 0) -> Preprocess:
    """Standardises every channel (or feature) by its mean and standard deviation over the training samples.

    Args:
        raw: uint8 or float32 [N, C', H', W'], [N, F], [N, C, L] or [N, L, C], not empty; read in pieces of 1024 samples.
        scale: see `Preprocess.scale`.
        shape: what the network shall see; with C' = 1 the grey statistics are repeated for each of its channels.
        axis: see `Preprocess.axis`.

    >>> steps = torch.tensor([[[0.0, 1.0], [4.0, 1.0]]])  # a sequence of two steps with two numbers each
    >>> measured(steps, 1.0, (2, 2), axis=1).mean
    (2.0, 1.0)
    """
    raw = raw.movedim(1 + axis, 1)
    axes = [0, *range(2, raw.ndim)]
    count = raw.numel() // raw.shape[1]
    mean = torch.zeros(raw.shape[1], dtype=torch.float64)
    for chunk in _chunks(raw):
        mean += chunk.to(torch.float64).sum(axes)
    mean /= count
    variance = torch.zeros_like(mean)
    centre = mean.reshape((-1,) + (1,) * (raw.ndim - 2))
    for chunk in _chunks(raw):
        variance += (chunk.to(torch.float64) - centre).square_().sum(axes)
    std = (variance / count).sqrt()
    # A constant channel carries nothing; dividing by its rounding noise would blow that noise up to unit size.
    std[std <= 1e-6 * mean.abs().clamp(min=1e-6)] = scale
    repeats = shape[axis] // raw.shape[1]
    return Preprocess(scale, _floats(mean / scale) * repeats, _floats(std / scale) * repeats, shape, axis)


@dataclass(frozen=True)
class Fixed:
    """Subtracts and divides by given numbers, whatever the data.

    Attributes:
        mean, std: one number, or one a channel (or feature), in units of raw / scale.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, raw: Tensor, scale: float, shape: tuple[int, ...], axis: int = 0) -> Preprocess:
        """The preparation with these numbers, spread over the channels where there is one.

        Args:
            raw: not read.
            scale: see `Preprocess.scale`.
            shape: what the network shall see.
            axis: see `Preprocess.axis`.

        Raises:
            DataError: there are other channels than numbers.
        """
        spread = [values * shape[axis] if len(values) == 1 else values for values in (self.mean, self.std)]
        if any(len(values) != shape[axis] for values in spread):
            raise DataError(
                f"inputs have '{shape[axis]}' channels, but the normalisation has '{len(self.mean)}' means and "
                f"'{len(self.std)}' standard deviations: give one of each, or one a channel"
            )
        return Preprocess(scale, spread[0], spread[1], shape, axis)


@dataclass(frozen=True)
class Recorded:
    """The preparation that a network was trained with, as an archive keeps it.

    Attributes:
        found: what `Preprocess.record` gave.
    """

    found: Preprocess

    def __call__(self, raw: Tensor, scale: float, shape: tuple[int, ...], axis: int = 0) -> Preprocess:
        """The same preparation.

        Args:
            raw: not read.
            scale: what these samples would be divided by.
            shape: what the network shall see.
            axis: not read: the channels are those that they were.

        Raises:
            DataError: the samples are stored in other numbers, or have another shape.
        """
        if (scale, shape) != (self.found.scale, self.found.shape):
            raise DataError(
                f"the network was trained on samples of shape {self.found.shape} that are divided by '{self.found.scale:g}', "
                f"but this data has {shape} and '{scale:g}': store it alike, or name a normalisation (--normalize)"
            )
        return self.found


NORMALIZATIONS: Mapping[str, Normalization] = {
    "auto": measured,
    "none": Fixed((0.0,), (1.0,)),
    "imagenet": Fixed(*IMAGENET),
}
"""Normalisations by name: "auto" standardises by the training samples, "none" divides bytes by their largest value and leaves
floats as they are, "imagenet" subtracts and divides by `IMAGENET`."""


def normalization(text: str) -> Normalization:
    """The normalisation that a text names: a name of `NORMALIZATIONS`, or "MEAN;STD" with one number or one a channel.

    Raises:
        DataError: it names none.

    >>> normalization("0.5,0.4,0.3;0.25")
    Fixed(mean=(0.5, 0.4, 0.3), std=(0.25,))
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    parts = text.split(";")
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
    except ValueError:
        mean, std = (), ()
    if not mean or not all(map(math.isfinite, mean)) or not all(0 < number < math.inf for number in std):
        raise DataError(
            f"normalisation '{text}' is unknown: choose one of {', '.join(NORMALIZATIONS)}, or give means and standard deviations "
            f"of the channels (bytes are divided by 255 first), such as 0.49,0.48,0.45;0.25,0.24,0.26"
        )
    return Fixed(mean, std)


def byte_record(mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """What an archive keeps of the inputs of a network that was trained elsewhere, on bytes divided by 255.

    Args:
        mean, std: of each channel, or one of all; what is subtracted and divided by after that.
        shape: of an input.

    >>> byte_record((0.5,), (0.25,), (1, 8, 8))["preprocess"]["scale"]
    255.0
    """
    prepared = Fixed(mean, std)(torch.zeros(0), 255.0, shape)
    return {"preprocess": prepared.record(), "classes": []}


def own(function: Callable[[Tensor], Tensor]) -> Normalization:
    """The normalisation by a function of one's own: see `OwnTransform`.

    >>> halved = own(lambda raw: raw.float() / 2)
    >>> halved(torch.zeros(0, 3), 1.0, (3,))(torch.ones(1, 3)).tolist()
    [[0.5, 0.5, 0.5]]
    """
    return lambda raw, scale, shape, axis=0: OwnTransform(function, shape)


def channels_last(normalize: Normalization) -> Normalization:
    """The same normalisation, but of sequences as [N, L, C]; of anything else as it is.

    Args:
        normalize: takes them for [N, C, L].

    >>> channels_last(Fixed((0.0, 1.0), (1.0,)))(torch.zeros(1, 3, 2), 1.0, (3, 2)).axis
    1
    """
    return lambda raw, scale, shape, axis=0: normalize(raw, scale, shape, 1 if len(shape) == 2 else axis)


def resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Pictures float32 [B, C', H', W'] resized to the H and W of `shape`, (C, H, W); anything else as it is."""
    if len(shape) == 3 and x.shape[2:] != shape[1:]:
        return functional.interpolate(x, shape[1:], mode="bilinear", antialias=True)
    return x


def _chunks(raw: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(raw), _CHUNK):
        yield raw[start : start + _CHUNK]


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{numbers} are not finite")
    return numbers


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _shown(values: tuple[float, ...]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    if len(values) > 4:
        return f"{len(values)} numbers"
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
