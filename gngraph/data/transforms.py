"""Transforms of torchvision and functions of the user's own as augmentations: what they draw repeats."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_structure

from gngraph.data.arrays import LARGEST_BYTE
from gngraph.data.augment import require_pictures
from gngraph.data.inputs import count_of, each
from gngraph.data.preprocess import Preprocess
from gngraph.errors import DataError, GnGraphError


@dataclass(frozen=True)
class OfPictures:
    """A transform of torchvision that is applied to each picture, with numbers of its own.

    Attributes:
        transform: of `torchvision.transforms.v2`.
        name: of it, with its options.
        pixels: how bytes become inputs, where the transform is for pixels: it is then given bytes.
        masks: whether targets are classes of pixels, which it changes alike.

    Raises:
        DataError: when it is called with something else than pictures, or it fails or gives something else.
    """

    transform: Any
    name: str
    pixels: Preprocess | None = None
    masks: bool = False

    def __call__(self, x: Tensor, y: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """See `gngraph.data.Augment`."""
        require_pictures(x, y, self.name, masks=self.masks)
        given = x if self.pixels is None else _bytes(x, self.pixels)
        with drawing_from(generator, x.device), _failing(self.name):
            if self.masks:
                pictures, masks = zip(*map(self._pair, given, y), strict=True)
                y = torch.stack(masks)
            else:
                pictures = tuple(self.transform(picture) for picture in given)
            made = torch.stack(pictures)
        require_alike(self.name, given, made)
        return made if self.pixels is None else self.pixels(made), y

    def _pair(self, picture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        made, own = self.transform(tv_tensors.Image(picture), tv_tensors.Mask(mask))
        return torch.Tensor(made), own.as_subclass(torch.Tensor)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Mixing:
    """A transform of torchvision that mixes the samples of a batch, and their targets alike.

    Attributes:
        transform: MixUp or CutMix of `torchvision.transforms.v2`.
        name: of it, with its options.
        numbers: whether targets are numbers, which are mixed as they are, and not classes.

    Raises:
        DataError: when samples are no numbers, or the transform fails.
    """

    transform: Any
    name: str
    numbers: bool

    def __call__(self, x: Tensor, y: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """See `gngraph.data.Augment`."""
        if not x.is_floating_point() or not isinstance(y, Tensor):
            raise DataError(
                f"augmentation '{self.name}' mixes samples, but these are {x.dtype}: leave it out of what reads tokens"
            )
        pictures = x if x.dim() == 4 else x.reshape(len(x), -1, 1, 1)
        targets = y.reshape(len(y), -1).float() if self.numbers else y
        with drawing_from(generator, x.device), _failing(self.name):
            made, mixed = self.transform(pictures, targets)
        return made.reshape(x.shape), mixed.reshape(y.shape) if self.numbers else mixed

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class OwnAugment:
    """A function of the user's own, called with the samples of a batch, or with these and their targets.

    Its numbers are drawn from torch, numpy or Python, whose generators are seeded for each batch and put back.

    Attributes:
        function: maps x, or x and y, to the same.
        name: of it.

    Raises:
        DataError: it takes neither; or when it fails or gives something else.
    """

    function: Callable[..., Any]
    name: str

    def __post_init__(self) -> None:
        if not (self._takes(1) or self._takes(2)):
            raise DataError(f"augmentation '{self.name}' is called with a batch x, or x and y, and takes neither")

    def __call__(self, x: Any, y: Any, generator: torch.Generator) -> tuple[Any, Any]:
        """See `gngraph.data.Augment`."""
        with drawing_from(generator, each(x)[0].device), _failing(self.name):
            made = self.function(x, y) if self._takes(2) else (self.function(x), y)
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise DataError(f"augmentation '{self.name}' returned a '{type(made).__name__}', but must return x and y")
        require_alike(self.name, x, made[0])
        count = count_of(x)
        if any(not isinstance(leaf, Tensor) or len(leaf) != count for leaf in tree_leaves(made[1])):
            raise DataError(f"augmentation '{self.name}' returned targets that are no tensors of {count} samples")
        return made[0], made[1]

    def _takes(self, count: int) -> bool:
        try:
            inspect.signature(self.function).bind(*range(count))
        except (TypeError, ValueError):
            return False
        return True

    def __str__(self) -> str:
        return self.name


def require_alike(name: str, x: Any, made: Any) -> None:
    """Refuse what an augmentation made of samples, where it is of another kind.

    Args:
        name: of the augmentation.
        x: what it was given.
        made: what it gave.

    Raises:
        DataError: shape, type or device are others.
    """
    if not isinstance(x, Tensor):
        others, spec = tree_flatten(made)
        if spec != tree_structure(x):
            raise DataError(
                f"augmentation '{name}' made other inputs of a sample than it has, {len(each(x))} in a {type(x).__name__}"
            )
        for own, other in zip(each(x), others, strict=True):
            require_alike(name, own, other)
        return
    if not isinstance(made, Tensor) or (made.shape, made.dtype, made.device) != (x.shape, x.dtype, x.device):
        found = (
            f"{made.dtype} {tuple(made.shape)} on {made.device}" if isinstance(made, Tensor) else type(made).__name__
        )
        raise DataError(
            f"augmentation '{name}' made {found} of {x.dtype} {tuple(x.shape)} on {x.device}, but shape and type must stay: leave "
            f"what normalises or converts to --normalize"
        )


@contextmanager
def drawing_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """The generators that a process shares are seeded by a number of `generator` inside, and as before afterwards.

    Args:
        generator: advances by one number.
        device: whose generator is seeded too.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """What a transform raises, as a sentence; memory that runs out is left to those who halve the batch."""
    try:
        yield
    except (GnGraphError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(f"augmentation '{name}' failed on a batch: {type(error).__name__}: {reason}") from error


def _bytes(x: Tensor, pixels: Preprocess) -> Tensor:
    """Inputs as they were stored, uint8; what was resized is rounded."""
    per_channel = (1, -1, 1, 1)
    mean, std = (torch.tensor(own).to(x).reshape(per_channel) for own in (pixels.mean, pixels.std))
    return ((x * std + mean) * LARGEST_BYTE).round().clamp(0, LARGEST_BYTE).to(torch.uint8)
