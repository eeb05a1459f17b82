"""A folder of pictures: train/ and test/ (or val/), each with one folder a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize, to_grayscale

from gngraph.data.augment import natural_augment
from gngraph.data.checks import shape_text
from gngraph.data.dataset import (
    ArrayDataset,
    Data,
    SampleDataset,
)
from gngraph.data.preprocess import Normalization, Preparation
from gngraph.data.sources.request import Request
from gngraph.errors import DataError

# In this order of preference.
_HELD_OUT = ("test", "val", "valid", "validation")
# torchvision's loader silently clips more than 8 bits a channel to white. These formats have 8, PNG says how many.
_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_PNG_DEPTH_AT = 24  # offset of the bit depth in the header of a PNG file
_SCALE = 255.0
# Decoding costs about a millisecond a picture, and growth reads the training set many times: up to this many bytes
# of decoded pictures are kept in memory. Larger folders are decoded again on every pass, by worker processes.
MEMORY_LIMIT = 2**30
_MEASURED = 2048  # pictures that mean and std of a folder beyond the limit are estimated from


@dataclass(frozen=True)
class Decoder:
    """Reads a picture file as bytes [C, H, W].

    Attributes:
        shape: the result, (1 or 3, H, W); colour becomes grey or grey colour where a file differs, alpha is dropped.
        model: a picture whose size every other must have; None: each is resized to cover H x W and cropped at the
            centre, so that its proportions stay.
    """

    shape: tuple[int, ...]
    model: Path | None

    def __call__(self, path: Path) -> Tensor:
        """Returns uint8 [C, H, W].

        Raises:
            DataError: if the file is no picture of 8 bits a channel, or has another size than the model.
        """
        picture = _decode(path, self.shape[0])
        size = tuple(picture.shape[1:])
        if size == self.shape[1:]:
            return picture
        if self.model is not None:
            raise DataError(
                f"picture '{path}' is '{shape_text(size)}' but '{self.model}' is '{shape_text(self.shape[1:])}' "
                f"(height x width): give an input shape, for example --input-shape {shape_text(self.shape)}, to "
                f"resize them all"
            )
        return _cover(picture, self.shape[1], self.shape[2])


class FolderDataset(SampleDataset):
    """Pictures that are decoded whenever they are asked for.

    Attributes:
        paths: one picture a sample.
        decoder: path to bytes.
        preprocess: bytes to network inputs.

    Args:
        labels: int64 [N], in the order of the paths.
    """

    workers = min(4, os.cpu_count() or 1)

    def __init__(self, paths: Sequence[Path], labels: Tensor, decoder: Decoder, preprocess: Preparation) -> None:
        self.paths = paths
        self.decoder = decoder
        self.preprocess = preprocess
        self._labels = labels

    @property
    def labels(self) -> Tensor:
        """As they were given."""
        return self._labels

    def stored(self, indices: Sequence[int]) -> Tensor:
        """Decoded pictures, uint8 [B, C, H, W]."""
        return torch.stack([self.decoder(self.paths[index]) for index in indices])


def load_folder(request: Request) -> Data:
    """Reads the folder at the path `request.spec`.

    Without an input shape the pictures keep their common size, in colour if any training picture has some (beyond
    `MEMORY_LIMIT`: any of 2048 drawn ones), else in grey.

    Raises:
        DataError: if a part or a class is missing, a picture is unreadable, or sizes are mixed and no input shape says
            what to resize them to.
    """
    root = Path(request.spec).expanduser()
    train_root, test_root = _parts(root)
    classes, train_paths, train_labels = _scan(train_root)
    test_classes, test_paths, test_labels = _scan(test_root)
    unknown = sorted(set(test_classes) - set(classes))
    if unknown:
        raise DataError(
            f"'{test_root}' has the class folder '{unknown[0]}', which '{train_root}' lacks: "
            f"every class that is tested must be trained"
        )
    renumbered = torch.tensor([classes.index(name) for name in test_classes])[test_labels]
    train, test = _datasets(
        _decoder(train_paths[0], request.input_shape),
        (train_paths, train_labels),
        (test_paths, renumbered),
        request.normalize,
    )
    shape = train.preprocess.shape
    return Data(
        name=root.name or str(root),
        train=train,
        test=test,
        classes=classes,
        preprocess=train.preprocess,
        augment=natural_augment(shape, shape),
    )


def _parts(root: Path) -> tuple[Path, Path]:
    held_out = [root / name for name in _HELD_OUT if (root / name).is_dir()]
    if (root / "train").is_dir() and held_out:
        return root / "train", held_out[0]
    found = ", ".join(f"'{path.name}'" for path in sorted(root.iterdir())[:8]) or "nothing"
    raise DataError(f"folder '{root}' holds {found}: an image folder needs 'train' and 'test' (or 'val') with classes")


def _scan(root: Path) -> tuple[tuple[str, ...], list[Path], Tensor]:
    try:
        folder = ImageFolder(str(root))
    except FileNotFoundError as error:
        raise DataError(
            f"'{root}' has no class folder, or one without a picture ({' '.join(str(error).split())}): "
            f"put the pictures of each class into a folder of its own"
        ) from error
    labels = torch.tensor([label for _, label in folder.samples], dtype=torch.int64)
    return tuple(folder.classes), [Path(path) for path, _ in folder.samples], labels


def _decoder(first: Path, input_shape: tuple[int, ...] | None) -> Decoder:
    if input_shape is None:
        return Decoder(tuple(_decode(first, 3).shape), model=first)
    if len(input_shape) != 3 or input_shape[0] not in (1, 3) or min(input_shape) < 1:
        raise DataError(
            f"input shape '{shape_text(input_shape)}' does not fit pictures: give 1xHxW for grey or 3xHxW for colour"
        )
    return Decoder(tuple(input_shape), model=None)


def _datasets(
    decoder: Decoder, train: tuple[list[Path], Tensor], test: tuple[list[Path], Tensor], normalize: Normalization
) -> tuple[ArrayDataset | FolderDataset, ArrayDataset | FolderDataset]:
    (train_paths, train_labels), (test_paths, test_labels) = train, test
    fits = (len(train_paths) + len(test_paths)) * prod(decoder.shape) <= MEMORY_LIMIT
    raw = _decode_all(decoder, train_paths if fits else _drawn(train_paths))
    if decoder.model is not None and bool((raw == raw[:, :1]).all()):
        # Nobody asked for colour and there is none, in whatever format the pictures are.
        decoder = replace(decoder, shape=(1, *decoder.shape[1:]))
        raw = raw[:, :1].clone()
    preprocess = normalize(raw, _SCALE, decoder.shape)
    if fits:
        return (
            ArrayDataset(raw, train_labels, preprocess),
            ArrayDataset(_decode_all(decoder, test_paths), test_labels, preprocess),
        )
    return (
        FolderDataset(train_paths, train_labels, decoder, preprocess),
        FolderDataset(test_paths, test_labels, decoder, preprocess),
    )


def _drawn(paths: Sequence[Path]) -> list[Path]:
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0))
    return [paths[index] for index in order[:_MEASURED].tolist()]


def _decode_all(decoder: Decoder, paths: Sequence[Path]) -> Tensor:
    pictures = torch.empty((len(paths), *decoder.shape), dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock
        for index, picture in enumerate(pool.map(decoder, paths)):
            pictures[index] = picture
    return pictures


def _cover(picture: Tensor, height: int, width: int) -> Tensor:
    factor = max(height / picture.shape[1], width / picture.shape[2])
    covering = [max(height, round(picture.shape[1] * factor)), max(width, round(picture.shape[2] * factor))]
    covered: Tensor = center_crop(resize(picture, covering, antialias=True), [height, width])
    return covered


def _decode(path: Path, channels: int) -> Tensor:
    if path.suffix.lower() not in _FORMATS or _has_16_bits(path):
        raise DataError(
            f"picture '{path}' may have more than 8 bits a channel: convert it to 8 bits in one of the formats "
            f"{', '.join(_FORMATS)}"
        )
    try:
        picture = default_loader(str(path))
    except Exception as error:  # a decoder fed with any file raises anything, from OSError to struct.error
        raise DataError(f"picture '{path}' cannot be read ({error}): repair or remove it") from error
    pixels: Tensor = pil_to_tensor(to_grayscale(picture) if channels == 1 else picture)
    return pixels


def _has_16_bits(path: Path) -> bool:
    if path.suffix.lower() != ".png":
        return False
    with path.open("rb") as file:
        return file.read(_PNG_DEPTH_AT + 1)[_PNG_DEPTH_AT:] == b"\x10"
