"""Augmentation of whole batches of pictures, with every random number drawn from a generator that the caller owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# Below this side length a crop or a flip destroys more than it varies (a flipped 8x8 digit is another sign).
SMALLEST_NATURAL_SIDE = 16


class Augment(Protocol):
    """A random change of a batch of pictures that keeps its shape, dtype and device."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a changed copy of `x`, float32 [B, C, H, W], already normalised."""
        ...


@dataclass(frozen=True)
class CropFlip:
    """Random crop out of the padded picture, then a horizontal flip of every second picture on average.

    The padding is 0, which after normalisation is the mean colour of the training set. Crop and flip are one gather,
    so a batch is copied once. All random numbers come from `generator`, on the generator's own device; the same
    state therefore gives the same batch on every device.

    Attributes:
        padding: pixels added on each side, which is also the largest shift; at least 0.

    Example:
        >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> CropFlip(padding=0)(x, torch.Generator().manual_seed(2)).flatten().tolist()
        [2.0, 1.0, 0.0, 5.0, 4.0, 3.0, 8.0, 7.0, 6.0]
    """

    padding: int

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a changed copy of `x`, float32 [B, C, H, W]."""
        count, channels, height, width = x.shape
        shifts = torch.randint(2 * self.padding + 1, (2, count, 1), generator=generator, device=generator.device)
        flipped = torch.randint(2, (count, 1), generator=generator, device=generator.device, dtype=torch.bool)
        rows = shifts[0].to(x.device) + torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device).expand(count, width)
        columns = shifts[1].to(x.device) + torch.where(flipped.to(x.device), columns.flip(1), columns)
        padded = functional.pad(x, (self.padding,) * 4)
        padded_width = width + 2 * self.padding
        # One index per pixel, shared by the channels: gather is several times faster here than advanced indexing.
        pixels = (rows.unsqueeze(2) * padded_width + columns.unsqueeze(1)).reshape(count, 1, height * width)
        picked = padded.flatten(2).gather(2, pixels.expand(count, channels, height * width))
        return picked.reshape(x.shape)


def natural_augment(raw_shape: tuple[int, ...], shape: tuple[int, ...]) -> Augment | None:
    """Chooses the augmentation for a data set from the shape of its samples.

    Colour pictures of at least 16 x 16 pixels as stored are taken for natural ones and get `CropFlip` with an eighth
    of the side that the network sees as padding (4 pixels at 32 x 32). Grey pictures (digits, clothing), small ones
    and tables get none: a mirrored 2 is no 2.

    Example:
        >>> natural_augment((3, 32, 32), (3, 32, 32))
        CropFlip(padding=4)
        >>> natural_augment((1, 28, 28), (3, 32, 32)) is None
        True
    """
    if len(raw_shape) != 3 or raw_shape[0] != 3 or min(raw_shape[1:]) < SMALLEST_NATURAL_SIDE:
        return None
    return CropFlip(padding=max(1, min(shape[1:]) // 8))
