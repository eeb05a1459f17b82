"""Picture files: which of a folder are taken, and how one becomes bytes of the size that a network sees."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, crop, pil_to_tensor, resize, to_grayscale

from gngraph.data.checks import shape_text
from gngraph.errors import DataError

FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",)}
"""Formats that are opened, whatever a file is called: others can start programs (EPS) or have more than 8 bits."""

_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Called pictures, and not read: a folder that holds one is refused rather than trained on without it.
_OTHER_SUFFIXES = (".ppm", ".pgm", ".tif", ".tiff", ".gif")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa")
_LARGEST = 2**27  # pixels of one picture: 384 MiB in colour
_PNG_DEPTH_AT = 24  # offset of the bit depth in the header of a PNG file
_SMOOTH, _NEAREST = InterpolationMode.BILINEAR, InterpolationMode.NEAREST_EXACT
_LOSSLESS = ("PNG", "BMP")
_NUMBERED = ("1", "L", "P")
"""Modes whose pixels are one number: black and white, grey, and the place in a palette."""


@dataclass(frozen=True)
class Decoder:
    """Reads a picture file as bytes [C, H, W].

    Attributes:
        shape: the result, (1 or 3, H, W); colour becomes grey or grey colour where a file differs, alpha is dropped.
        model: a picture whose size every other must have; None: the centre of each, of the proportions of H x W, is resized.
    """

    shape: tuple[int, ...]
    model: Path | None

    def __call__(self, path: Path) -> Tensor:
        """Returns uint8 [C, H, W].

        Raises:
            DataError: if the file is no picture of 8 bits a channel, or has another size than the model.
        """
        return self.fitted(decode(path, self.shape[0]), path, smooth=True)

    def fitted(self, picture: Tensor, path: Path, *, smooth: bool) -> Tensor:
        """Pixels in the size of the shape.

        Args:
            picture: uint8 [C, H', W'].
            path: of the file, for messages.
            smooth: whether pixels between others are their means; else each is one of them, as numbers of classes need it.

        Returns:
            uint8 [C, H, W].

        Raises:
            DataError: it has another size than the model.
        """
        size = tuple(picture.shape[1:])
        if size == self.shape[1:]:
            return picture
        if self.model is not None:
            raise DataError(
                f"picture '{path}' is '{shape_text(size)}' but '{self.model}' is '{shape_text(self.shape[1:])}' "
                f"(height x width): give an input shape, for example --input-shape {shape_text(self.shape)}, to "
                f"resize them all"
            )
        return _centre(picture, self.shape[1], self.shape[2], _SMOOTH if smooth else _NEAREST)


@dataclass
class Left:
    """What stands among the pictures of a folder and is not read.

    Attributes:
        files: of each reason, in the order of the walk.
    """

    files: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, reason: str, path: Path) -> None:
        """Counts one.

        Args:
            reason: why it is left out.
            path: of the file or folder.
        """
        self.files.setdefault(reason, []).append(path)

    def notes(self) -> tuple[str, ...]:
        """A sentence a reason: how many, and which is the first."""
        return tuple(
            f"left out: '{paths[0]}'{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}, {reason}"
            for reason, paths in self.files.items()
        )


def pictures_below(folders: list[Path], left: Left) -> list[list[Path]]:
    """The picture files of each folder and of those in it, sorted; no folder is walked twice, whatever links lead to it.

    Args:
        folders: one a class.
        left: told what is not read: links that lead nowhere or back, pipes and devices, files that no suffix calls a picture.
    """
    seen = {_identity(folder) for folder in folders} | {_identity(folder.parent) for folder in folders}
    return [sorted(_walk(folder, seen, left)) for folder in folders]


def _walk(folder: Path, seen: set[tuple[int, int]], left: Left) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # what file managers and notebooks leave
            continue
        try:
            mode = path.stat().st_mode
        except OSError:
            left.add("a link that leads nowhere", path)
            continue
        if stat.S_ISDIR(mode):
            if _identity(path) in seen:
                left.add("a link to a folder that is read already", path)
                continue
            seen.add(_identity(path))
            yield from _walk(path, seen, left)
        elif not stat.S_ISREG(mode):
            left.add("neither file nor folder", path)
        elif path.suffix.lower() in _SUFFIXES + _OTHER_SUFFIXES:
            yield path
        else:
            left.add(f"no picture by its suffix ({', '.join(_SUFFIXES)})", path)


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def decode(path: Path, channels: int) -> Tensor:
    """The pixels of a file as they are stored.

    Args:
        path: of the file.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8 [channels, H, W].

    Raises:
        DataError: it is in none of `FORMATS`, has more than 8 bits a channel or more than 2^27 pixels, or is damaged.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise _too_deep(path)
    try:
        with Image.open(path, formats=tuple(FORMATS)) as picture:
            width, height = picture.size
            if width * height > _LARGEST:
                raise DataError(
                    f"picture '{path}' has {height}x{width} pixels, and at most {_LARGEST:,} are read: make it smaller"
                )
            if picture.mode not in _MODES or _is_deep_png(path, picture):
                raise _too_deep(path)
            colour = picture.convert("RGB")
            pixels: Tensor = pil_to_tensor(to_grayscale(colour) if channels == 1 else colour)
    except DataError:
        raise
    except Exception as error:  # a decoder fed with any file raises anything, from OSError to struct.error
        raise _unreadable(path, error) from error
    return pixels


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture, of which the head alone is read.

    Raises:
        DataError: it is in none of `FORMATS`.
    """
    try:
        with Image.open(path, formats=tuple(FORMATS)) as picture:
            return picture.height, picture.width
    except Exception as error:  # see `decode`
        raise _unreadable(path, error) from error


def decode_mask(path: Path) -> Tensor:
    """The numbers of a mask as they are stored: grey values, places in a palette, or 0 and 1 of black and white.

    Returns:
        uint8 [1, H, W].

    Raises:
        DataError: it is in a format that changes numbers, holds colours, has more than 8 bits or more than 2^27 pixels, or is
            damaged.
    """
    try:
        with Image.open(path, formats=tuple(FORMATS)) as picture:
            if picture.width * picture.height > _LARGEST:
                raise DataError(f"mask '{path}' has more than {_LARGEST:,} pixels: make it smaller")
            if picture.format not in _LOSSLESS:
                raise DataError(f"mask '{path}' is a {picture.format}, which changes numbers: store masks as .png")
            if _is_deep_png(path, picture):
                raise _too_deep(path)
            stored = np.array(picture)
            if picture.mode in _NUMBERED:
                return torch.from_numpy(stored.astype(np.uint8)).unsqueeze(0)
            grey = picture.mode == "RGB" and bool((stored == stored[:, :, :1]).all())
    except DataError:
        raise
    except Exception as error:  # see `decode`
        raise _unreadable(path, error) from error
    if not grey:
        raise DataError(
            f"mask '{path}' holds colours ({picture.mode}): store the number of each pixel's class, in grey or by a palette"
        )
    return torch.from_numpy(np.ascontiguousarray(stored[:, :, 0])).unsqueeze(0)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"picture '{path}' cannot be read ({error}): repair or remove it")


def _is_deep_png(path: Path, picture: Image.Image) -> bool:
    if picture.format != "PNG":
        return False
    with path.open("rb") as file:
        return file.read(_PNG_DEPTH_AT + 1)[_PNG_DEPTH_AT:] == b"\x10"


def _too_deep(path: Path) -> DataError:
    return DataError(
        f"picture '{path}' may have more than 8 bits a channel: convert it to 8 bits in one of the formats "
        f"{', '.join(_SUFFIXES)}"
    )


def _centre(picture: Tensor, height: int, width: int, between: InterpolationMode) -> Tensor:
    """Cut out before it is resized: a picture of 1 x 20000 resized to cover a square would take gigabytes."""
    factor = max(height / picture.shape[1], width / picture.shape[2])
    cut = min(picture.shape[1], max(1, round(height / factor))), min(picture.shape[2], max(1, round(width / factor)))
    top, side = (picture.shape[1] - cut[0]) // 2, (picture.shape[2] - cut[1]) // 2
    resized: Tensor = resize(crop(picture, top, side, *cut), [height, width], between, antialias=True)
    return resized
