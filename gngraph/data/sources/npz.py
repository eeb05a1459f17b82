"""A numpy archive with x_train, y_train and, if wanted, x_test, y_test, x_val, y_val and classes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.lib.npyio import NpzFile

from gngraph.data.arrays import Array, divided, from_arrays, further
from gngraph.data.dataset import Data
from gngraph.data.inputs import TARGETS, parted, quoted
from gngraph.data.several import from_several, parts_of_several
from gngraph.data.sources.request import Request
from gngraph.data.tokens import are_positions, from_tokens
from gngraph.errors import DataError

_TRAIN = ("x_train", "y_train")
_TEST = ("x_test", "y_test")
_VALIDATION = ("x_val", "y_val")
_CLASSES = "classes"
ARRAYS = (*_TRAIN, *_TEST, *_VALIDATION)
"""Names of the arrays."""
_MOST_PACKED = 2**30
"""Bytes that a compressed array may unpack to whatever its ratio; the pixels of CIFAR-10 take a sixth of it."""
_MAX_RATIO = 20
"""Beyond `_MOST_PACKED`, an array that unpacks to more than this many times its packed size is taken for a zip bomb."""


def load_npz(request: Request) -> Data:
    """Reads the archive at the path `request.spec`; pickled objects in it are never loaded.

    Raises:
        DataError: if the file is damaged, lacks an array, or holds objects or unusable shapes.
    """
    path = Path(request.spec).expanduser()
    with _open(path) as archive:
        several = parts_of_several([name for name in archive.files if name != _CLASSES])
        wanted = [name for name in (*ARRAYS, _CLASSES) if name in archive.files] if not several else archive.files
        if not several:
            _require(f"'{path}'", archive.files)
        found = {name: _read(archive, path, name) for name in wanted}
    return from_parts(path.name, f"'{path}'", found, request)


def from_parts(name: str, where: str, found: Mapping[str, Array], request: Request) -> Data:
    """Data from arrays by the names that an archive has.

    Args:
        name: of the data.
        where: they come from, for messages.
        found: at least x_train and y_train.
        request: how they are to be read.

    Raises:
        DataError: an array is missing, or has a shape that cannot be used.
    """
    if several := parts_of_several([name for name in found if name != _CLASSES]):
        return _of_several(name, where, found, several, request)
    _require(where, list(found))
    parts = [found[part] for part in (*_TRAIN, *_TEST) if part in found]
    if request.tokens or are_positions(*parts[:2]):
        return _of_tokens(name, where, found, parts, request)
    tested, validated = (any(part in found for part in parts) for parts in (_TEST, _VALIDATION))
    classes = _class_names(where, found[_CLASSES]) if _CLASSES in found else None
    try:
        notes: tuple[str, ...] = ()
        arrays = [found[part] for part in (_TRAIN + _TEST if tested else _TRAIN)]
        if not tested:
            arrays = divided(arrays[0], arrays[1], request.val_split)
            notes = (
                f"no test part: {len(arrays[2])} of {len(arrays[0]) + len(arrays[2])} samples are held out (see --val-split)",
            )
        data = from_arrays(
            name,
            *arrays,
            classes=classes,
            input_shape=request.input_shape,
            normalize=request.normalize,
        )
        validation = further(data, "val", *(found[part] for part in _VALIDATION)) if validated else None
    except DataError as error:
        raise DataError(f"in {where}, {error}") from error
    return replace(data, notes=notes, validation=validation)


def _of_several(
    name: str, where: str, found: Mapping[str, Array], several: Mapping[str, Mapping[str, str]], request: Request
) -> Data:
    classes = _class_names(where, found[_CLASSES]) if _CLASSES in found else None
    for part, names in several.items():
        if names.keys() != several["train"].keys():
            raise DataError(
                f"in {where}, the {part} part has {quoted(names)}, but the training part {quoted(several['train'])}: give it "
                f"these arrays"
            )
    try:
        parts = {part: parted({own: found[array] for own, array in names.items()}) for part, names in several.items()}
        return from_several(name, parts, classes=classes, val_split=request.val_split)
    except DataError as error:
        raise DataError(f"in {where}, {error}") from error


def _of_tokens(name: str, where: str, found: Mapping[str, Array], parts: Sequence[Array], request: Request) -> Data:
    if any(part in found for part in _VALIDATION):
        raise DataError(f"{where} has a validation part, which is not read of tokens: put it into the test part")
    classes = _class_names(where, found[_CLASSES]) if _CLASSES in found else None
    try:
        return from_tokens(name, parts, classes=classes, input_shape=request.input_shape, val_split=request.val_split)
    except DataError as error:
        raise DataError(f"in {where}, {error}") from error


def _require(where: str, names: Sequence[str]) -> None:
    """Refuse what lacks an array: of the training part, or of another that is begun."""
    begun = [parts for parts in (_TEST, _VALIDATION) if any(part in names for part in parts)]
    missing = [part for parts in (_TRAIN, *begun) for part in parts if part not in names]
    if missing:
        raise DataError(
            f"{where} lacks {quoted(missing)}: it holds {quoted(names)}, and needed are "
            f"{quoted(_TRAIN)} ({quoted(_TEST)} for a test part, {quoted(_VALIDATION)} for a validation part, "
            f"and '{_CLASSES}' for class names), or several inputs by their names and a target called {', '.join(TARGETS)}"
        )


def _open(path: Path) -> NpzFile:
    try:
        with path.open("rb") as file:
            single = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
            if not single:
                zipfile.ZipFile(file).close()  # one that is damaged NumPy would leave open
        opened = None if single else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"'{path}' is not a readable .npz archive: write it with numpy.savez") from error
    if not isinstance(opened, NpzFile):
        raise DataError(f"'{path}' holds a single array: write an .npz archive with numpy.savez")
    return opened


def _read(archive: NpzFile, path: Path, name: str) -> Array:
    _check_size(archive, path, name)
    try:
        array: Array = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"'{name}' in '{path}' holds Python objects, which are never loaded because that would run code: "
                f"store it as an array of numbers (or of text for '{_CLASSES}')"
            ) from error
        raise DataError(f"'{name}' in '{path}' is damaged: write the archive again") from error
    except MemoryError as error:
        raise DataError(
            f"'{name}' in '{path}' does not fit into memory: take fewer samples, or smaller ones"
        ) from error
    except RuntimeError as error:  # the zip module knows no kind of its own
        raise DataError(f"'{name}' in '{path}' is encrypted or packed in a way that is not read ({error})") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"'{name}' in '{path}' is damaged: write the archive again") from error
    return array


def _check_size(archive: NpzFile, path: Path, name: str) -> None:
    """Refuse what unpacks to much more than is stored, before it is unpacked."""
    members = [] if archive.zip is None else archive.zip.infolist()
    info = next(info for info in members if info.filename in (name, f"{name}.npy"))
    if info.file_size > max(_MOST_PACKED, _MAX_RATIO * info.compress_size):
        raise DataError(
            f"'{name}' in '{path}' unpacks from {info.compress_size:,} to {info.file_size:,} bytes, and more than {_MOST_PACKED:,} "
            f"must not be more than {_MAX_RATIO} times what is stored: write it with numpy.savez, which does not compress"
        )


def _class_names(where: str, array: Array) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(
            f"'{_CLASSES}' in {where} has dtype '{array.dtype}' and {array.ndim} axes: it must be a list of text"
        )
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array]
