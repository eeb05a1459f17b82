"""A numpy archive with x_train, y_train, x_test, y_test and, if wanted, classes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from gngraph.data.arrays import Array, from_arrays
from gngraph.data.dataset import Data
from gngraph.data.sources.request import Request
from gngraph.errors import DataError

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_CLASSES = "classes"


def load_npz(request: Request) -> Data:
    """Reads the archive at the path `request.spec`; pickled objects in it are never loaded.

    Raises:
        DataError: if the file is damaged, lacks an array, or holds objects or unusable shapes.
    """
    path = Path(request.spec).expanduser()
    with _open(path) as archive:
        missing = [name for name in _NEEDED if name not in archive.files]
        if missing:
            raise DataError(
                f"'{path}' lacks {_quoted(missing)}: it holds {_quoted(archive.files)}, and needed are "
                f"{_quoted(_NEEDED)} (and '{_CLASSES}' for class names)"
            )
        x_train, y_train, x_test, y_test = (_read(archive, path, name) for name in _NEEDED)
        classes = _class_names(path, _read(archive, path, _CLASSES)) if _CLASSES in archive.files else None
    try:
        return from_arrays(
            path.name,
            x_train,
            y_train,
            x_test,
            y_test,
            classes=classes,
            input_shape=request.input_shape,
            normalize=request.normalize,
        )
    except DataError as error:
        raise DataError(f"in '{path}', {error}") from error


def _open(path: Path) -> NpzFile:
    try:
        opened = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' is not a readable .npz archive: write it with numpy.savez") from error
    if not isinstance(opened, NpzFile):
        raise DataError(f"'{path}' holds a single array: write an .npz archive with numpy.savez")
    return opened


def _read(archive: NpzFile, path: Path, name: str) -> Array:
    try:
        array: Array = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"'{name}' in '{path}' holds Python objects, which are never loaded because that would run code: "
                f"store it as an array of numbers (or of text for '{_CLASSES}')"
            ) from error
        raise DataError(f"'{name}' in '{path}' is damaged: write the archive again") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"'{name}' in '{path}' is damaged: write the archive again") from error
    return array


def _class_names(path: Path, array: Array) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(
            f"'{_CLASSES}' in '{path}' has dtype '{array.dtype}' and {array.ndim} axes: it must be a list of text"
        )
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
