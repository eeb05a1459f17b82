"""Tiny arrays and files that the tests of `gngraph.data` are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from gngraph.data import Data, Preprocess


class Arrays(TypedDict):
    """The arguments of `from_arrays` that have no default."""

    x_train: npt.NDArray[Any]
    y_train: npt.NDArray[Any]
    x_test: npt.NDArray[Any]
    y_test: npt.NDArray[Any]


def colour_arrays(train: int = 30, test: int = 10, side: int = 16) -> Arrays:
    """Random colour pictures of 3 classes, uint8 [N, side, side, 3]."""
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (train, side, side, 3), dtype=np.uint8),
        "y_train": np.arange(train) % 3,
        "x_test": random.integers(0, 256, (test, side, side, 3), dtype=np.uint8),
        "y_test": np.arange(test) % 3,
    }


def table_arrays(train: int = 30, test: int = 10, features: int = 5) -> Arrays:
    """A random table with one float target: a regression."""
    random = np.random.default_rng(0)
    return {
        "x_train": random.normal(2.0, 3.0, (train, features)),
        "y_train": random.normal(size=train),
        "x_test": random.normal(2.0, 3.0, (test, features)),
        "y_test": random.normal(size=test),
    }


def save_npz(path: Path, arrays: Mapping[str, object]) -> str:
    """Writes the arrays and returns the path as `--data` takes it."""
    np.savez(path, allow_pickle=True, **{name: np.asarray(array) for name, array in arrays.items()})
    return str(path)


def save_picture(path: Path, channels: int, height: int, width: int, seed: int = 0) -> None:
    """Writes a random PNG, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    save_pixels(path, torch.randint(256, (channels, height, width), generator=generator, dtype=torch.uint8))


def save_pixels(path: Path, pixels: Tensor) -> None:
    """Writes uint8 or int16 [C, H, W] in the format that the suffix names."""
    to_pil_image(pixels).save(path)


def save_folder(root: Path, channels: int = 3, height: int = 16, width: int = 20, held_out: str = "test") -> str:
    """Writes 4 training and 2 held-out pictures of each of the classes 'cat' and 'dog'."""
    for part, count in (("train", 4), (held_out, 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                save_picture(root / part / name / f"{index}.png", channels, height, width, seed=10 * index + label)
    return str(root)


def numbers_of(data: Data) -> Preprocess:
    """Scale, mean and standard deviation of a data set that has them."""
    assert isinstance(data.preprocess, Preprocess)
    return data.preprocess
