"""Augmentation of whole batches, with every random number drawn from a generator that the caller owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from gngraph.errors import DataError

# Below this side length a crop or a flip destroys more than it varies (a flipped 8x8 digit is another sign).
SMALLEST_NATURAL_SIDE = 16

UNKNOWN = 255
"""Pixels of a mask that say nothing; the loss leaves them out."""


class Augment(Protocol):
    """A random change of a batch of samples and their targets; samples keep their shape, dtype and device."""

    def __call__(self, x: Tensor, y: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Returns changed copies, or what it was given.

        Args:
            x: samples as networks read them, [B, C, H, W] for pictures, already normalised.
            y: their targets, on the same device.
            generator: of all random numbers.
        """
        ...


@dataclass(frozen=True)
class Chain:
    """Augmentations one after the other.

    Attributes:
        steps: these, in order.
    """

    steps: tuple[Augment, ...]

    def __call__(self, x: Tensor, y: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """See `Augment`."""
        for step in self.steps:
            x, y = step(x, y, generator)
        return x, y

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))


@dataclass(frozen=True)
class CropFlip:
    """Random crop out of the padded picture, then a horizontal flip.

    The padding is 0, which after normalisation is the mean colour of the training set. Crop and flip are one gather,
    so a batch is copied once. All random numbers come from `generator`, on the generator's own device; the same
    state therefore gives the same batch on every device.

    Attributes:
        padding: pixels added on each side, which is also the largest shift; at least 0.
        flips: share of the pictures that are flipped.
        masks: whether targets are classes of pixels, which move along; beyond the border they are `UNKNOWN`.

    Raises:
        DataError: when it is called with something else than pictures, or targets of every pixel that are no masks.

    Example:
        >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> CropFlip(padding=0, flips=1)(x, None, torch.Generator().manual_seed(2))[0].flatten().tolist()
        [2.0, 1.0, 0.0, 5.0, 4.0, 3.0, 8.0, 7.0, 6.0]
        >>> str(CropFlip(padding=4))
        'crop{padding=4},flip'
    """

    padding: int
    flips: float = 0.5
    masks: bool = False

    def __call__(self, x: Tensor, y: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """See `Augment`."""
        require_pictures(x, y, str(self), masks=self.masks)
        (count, _, height, width), device = x.shape, generator.device
        shifts = torch.randint(2 * self.padding + 1, (2, count, 1), generator=generator, device=device)
        flipped = torch.rand((count, 1), generator=generator, device=device) < self.flips
        rows = shifts[0].to(x.device) + torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device).expand(count, width)
        columns = shifts[1].to(x.device) + torch.where(flipped.to(x.device), columns.flip(1), columns)
        # One index per pixel, shared by the channels: gather is several times faster here than advanced indexing.
        padded_width = width + 2 * self.padding
        pixels = (rows.unsqueeze(2) * padded_width + columns.unsqueeze(1)).reshape(count, 1, height * width)
        return self._picked(x, pixels, 0), self._picked(y.unsqueeze(1), pixels, UNKNOWN)[:, 0] if self.masks else y

    def _picked(self, x: Tensor, pixels: Tensor, border: int) -> Tensor:
        padded = functional.pad(x, (self.padding,) * 4, value=border)
        return padded.flatten(2).gather(2, pixels.expand(-1, x.shape[1], -1)).reshape(x.shape)

    def __str__(self) -> str:
        parts = [f"crop{{padding={self.padding}}}"] if self.padding else []
        parts += ["flip" if self.flips == 0.5 else f"flip{{p={self.flips:g}}}"] if self.flips else []
        return ",".join(parts)


def require_pictures(x: Tensor, y: Any, name: str, *, masks: bool) -> None:
    """Refuse what no change of places may be made to.

    Args:
        x, y: samples and targets.
        name: of the augmentation.
        masks: whether targets of every pixel move along.

    Raises:
        DataError: x is no batch of pictures, or targets are of every pixel and would stay where they are.
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise DataError(
            f"augmentation '{name}' is for pictures, numbers of shape C,H,W, but samples are {x.dtype} of shape "
            f"{tuple(x.shape[1:])}: leave it out"
        )
    still = [t for t in tree_leaves(y) if isinstance(t, Tensor) and t.dim() > 2 and t.shape[-2:] == x.shape[-2:]]
    if still and not masks:
        raise DataError(
            f"augmentation '{name}' moves pixels of a picture, but there is a target for every pixel, which would stay where it "
            f"is: name the loss 'segmentation' where targets are classes of pixels, or give a function of your own (x, y)"
        )


def natural_augment(raw_shape: tuple[int, ...], shape: tuple[int, ...]) -> Augment | None:
    """Chooses the augmentation for a data set from the shape of its samples.

    Colour pictures of at least 16 x 16 pixels as stored are taken for natural ones and get `CropFlip` with an eighth
    of the side that the network sees as padding (4 pixels at 32 x 32). Grey pictures (digits, clothing), small ones
    and tables get none: a mirrored 2 is no 2.

    Example:
        >>> natural_augment((3, 32, 32), (3, 32, 32))
        CropFlip(padding=4, flips=0.5, masks=False)
        >>> natural_augment((1, 28, 28), (3, 32, 32)) is None
        True
    """
    if len(raw_shape) != 3 or raw_shape[0] != 3 or min(raw_shape[1:]) < SMALLEST_NATURAL_SIDE:
        return None
    return CropFlip(padding=padding_for(*shape[1:]))


def padding_for(height: int, width: int) -> int:
    """How far a crop may shift pictures: an eighth of the shorter side.

    >>> padding_for(32, 32)
    4
    """
    return max(1, min(height, width) // 8)
