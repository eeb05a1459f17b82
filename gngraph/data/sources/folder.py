"""A folder of pictures, one folder a class: in train/ and test/ (or val/, beside it for decisions), or all in one place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from gngraph.data.augment import natural_augment
from gngraph.data.checks import shape_text
from gngraph.data.dataset import (
    ArrayDataset,
    Data,
    SampleDataset,
)
from gngraph.data.preprocess import Normalization, Preparation
from gngraph.data.sources.pictures import Decoder, Left, decode, pictures_below
from gngraph.data.sources.request import Request
from gngraph.data.splits import held_out
from gngraph.errors import DataError

# In this order of preference.
_HELD_OUT = ("test", "val", "valid", "validation")
_SCALE = 255.0
# Decoding costs about a millisecond a picture, and growth reads the training set many times: up to this many bytes
# of decoded pictures are kept in memory. Larger folders are decoded again on every pass, by worker processes.
MEMORY_LIMIT = 2**30
_MEASURED = 2048  # pictures that mean and std of a folder beyond the limit are estimated from

Labelled = tuple[list[Path], Tensor]
"""Pictures, and their labels int64 [N], or uint8 [N, H, W] for a class a pixel."""


class FolderDataset(SampleDataset):
    """Pictures that are decoded whenever they are asked for.

    Attributes:
        paths: one picture a sample.
        decoder: path to bytes.
        preprocess: bytes to network inputs.

    Args:
        labels: int64 [N] or uint8 [N, H, W], in the order of the paths.
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
    `MEMORY_LIMIT`: any of 2048 drawn ones), else in grey. Without a folder of held-out pictures a share of each class is.
    Links are followed, no folder is read twice, and what is not read is counted in the notes of the data set.

    Args:
        request: the path, and what is wanted of it.

    Raises:
        DataError: if a class is missing, a picture is unreadable, or sizes are mixed and no input shape says what to resize
            them to.
    """
    root = Path(request.spec).expanduser()
    if {path.name for path in root.iterdir() if path.is_dir()} == {"images", "masks"}:
        raise DataError(f"'{root}' holds pictures with masks: say so (--task segmentation)")
    train_root, test_root, validation_root = parts_of(root)
    left = Left()
    classes, train = _scan(train_root, left)
    if test_root is None:
        kept, out = held_out(train[1], request.val_split)
        train, test = at(train, kept), at(train, out)
        notes: tuple[str, ...] = (
            f"no test part: {len(out)} of {len(kept) + len(out)} pictures are held out (see --val-split)",
        )
    else:
        test, notes = _scan_alike(test_root, classes, train_root, left), ()
    others = [test] if validation_root is None else [test, _scan_alike(validation_root, classes, train_root, left)]
    sets = datasets(decoder_for(train[0][0], request.input_shape), [train, *others], request.normalize)
    shape = sets[0].preprocess.shape
    return Data(
        name=root.name or str(root),
        train=sets[0],
        test=sets[1],
        classes=classes,
        preprocess=sets[0].preprocess,
        augment=natural_augment(shape, shape),
        notes=(*notes, *left.notes()),
        validation=sets[2] if len(sets) > 2 else None,
    )


def parts_of(root: Path) -> tuple[Path, Path | None, Path | None]:
    """Where the training pictures are, the held-out ones, and those of a validation part beside them.

    Without held-out ones a part of the training pictures is held out.

    Args:
        root: the folder.

    Raises:
        DataError: there are held-out pictures and none to train on.
    """
    parts = [root / name for name in _HELD_OUT if (root / name).is_dir()]
    if (root / "train").is_dir():
        test, validation = (*parts, None, None)[:2]
        return root / "train", test, validation
    if not parts:
        return root, None, None
    raise DataError(
        f"folder '{root}' holds '{parts[0].name}' and no 'train': an image folder needs 'train' and 'test' (or 'val') with "
        f"class folders in them, or class folders alone"
    )


def _scan(root: Path, left: Left) -> tuple[tuple[str, ...], Labelled]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"'{root}' has no class folder: put the pictures of each class into a folder of its own")
    found = pictures_below(folders, left)
    for folder, paths in zip(folders, found, strict=True):
        if not paths:
            raise DataError(
                f"'{root}' has a class folder without a picture, '{folder.name}': put the pictures of each class into a "
                f"folder of its own, or remove it"
            )
    labels = torch.cat([torch.full((len(paths),), label) for label, paths in enumerate(found)])
    return tuple(folder.name for folder in folders), ([path for paths in found for path in paths], labels)


def _scan_alike(root: Path, classes: Sequence[str], train_root: Path, left: Left) -> Labelled:
    """Pictures of classes that the training pictures have."""
    own, found = _scan(root, left)
    unknown = sorted(set(own) - set(classes))
    if unknown:
        raise DataError(
            f"'{root}' has the class folder '{unknown[0]}', which '{train_root}' lacks: every class that is tested must be trained"
        )
    return found[0], torch.tensor([classes.index(name) for name in own])[found[1]]


def at(samples: Labelled, rows: Sequence[int]) -> Labelled:
    """Some of the pictures, by their places.

    Args:
        samples: pictures and labels.
        rows: which.
    """
    paths, labels = samples
    return [paths[row] for row in rows], labels[list(rows)]


def decoder_for(first: Path, input_shape: tuple[int, ...] | None) -> Decoder:
    """What reads pictures as a network sees them.

    Args:
        first: the picture whose size all must have where no shape is asked for.
        input_shape: what the network takes.

    Raises:
        DataError: no picture has that shape.
    """
    if input_shape is None:
        return Decoder(tuple(decode(first, 3).shape), model=first)
    if len(input_shape) != 3 or input_shape[0] not in (1, 3) or min(input_shape) < 1:
        raise DataError(
            f"input shape '{shape_text(input_shape)}' does not fit pictures: give 1xHxW for grey or 3xHxW for colour"
        )
    return Decoder(tuple(input_shape), model=None)


def datasets(
    decoder: Decoder, parts: Sequence[Labelled], normalize: Normalization
) -> list[ArrayDataset | FolderDataset]:
    """The parts as data sets, the first of them the training pictures.

    Args:
        decoder: of all pictures; without a model size, grey ones stay in colour where that was asked for.
        parts: pictures and labels.
        normalize: how bytes become inputs.
    """
    (paths, labels), *others = parts
    fits = sum(len(paths) for paths, _ in parts) * prod(decoder.shape) <= MEMORY_LIMIT
    raw = _decode_all(decoder, paths if fits else _drawn(paths))
    if decoder.model is not None and bool((raw == raw[:, :1]).all()):
        # Nobody asked for colour and there is none, in whatever format the pictures are.
        decoder = replace(decoder, shape=(1, *decoder.shape[1:]))
        raw = raw[:, :1].clone()
    preprocess = normalize(raw, _SCALE, decoder.shape)
    if fits:
        held = [ArrayDataset(_decode_all(decoder, paths), labels, preprocess) for paths, labels in others]
        return [ArrayDataset(raw, labels, preprocess), *held]
    return [FolderDataset(paths, labels, decoder, preprocess) for paths, labels in parts]


def _drawn(paths: Sequence[Path]) -> list[Path]:
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0))
    return [paths[index] for index in order[:_MEASURED].tolist()]


def _decode_all(decoder: Decoder, paths: Sequence[Path]) -> Tensor:
    pictures = torch.empty((len(paths), *decoder.shape), dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock
        for index, picture in enumerate(pool.map(decoder, paths)):
            pictures[index] = picture
    return pictures
