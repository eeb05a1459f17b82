"""A numpy archive of arrays by their names."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.lib.npyio import NpzFile

from gngraph.data.arrays import Array
from gngraph.data.several import parts_of_several
from gngraph.data.sources.named_arrays import ARRAYS, CLASS_NAMES, NamedArrays, require_parts
from gngraph.data.sources.request import Request
from gngraph.errors import DataError

_MOST_PACKED = 2**30
"""Bytes that a compressed array may unpack to whatever its ratio; the pixels of CIFAR-10 take a sixth of it."""
_MAX_RATIO = 20
"""Beyond `_MOST_PACKED`, an array that unpacks to more than this many times its packed size is taken for a zip bomb."""


def load_npz(request: Request) -> NamedArrays:
    """Reads the archive at the path `request.spec`; pickled objects in it are never loaded.

    Raises:
        DataError: if the file is damaged, lacks an array, or holds objects or unusable shapes.
    """
    path = Path(request.spec).expanduser()
    with _open(path) as archive:
        several = parts_of_several([name for name in archive.files if name != CLASS_NAMES])
        wanted = [name for name in (*ARRAYS, CLASS_NAMES) if name in archive.files] if not several else archive.files
        if not several:
            require_parts(f"'{path}'", archive.files)
        found = {name: _read(archive, path, name) for name in wanted}
    return NamedArrays(path.name, f"'{path}'", found)


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
                f"store it as an array of numbers (or of text for '{CLASS_NAMES}')"
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
