"""Files appear whole or not at all: written beside their names, put on the disk, and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gngraph.errors import GnGraphError

VALUES_HASH = "sha256"
"""Entry in the metadata of a safetensors file: `values_hash` of it, when it was written."""

_SUFFIX = ".tmp"


@contextmanager
def replacing(*files: Path) -> Iterator[tuple[Path, ...]]:
    """Names to write to, which become `files` when the block ends, and vanish where it fails.

    What is written is on the disk before any of the names changes. Several files are renamed one after the other.

    Args:
        files: regular files, or names that are free, of one folder.

    Yields:
        A name for each, in the same folder.

    Raises:
        GnGraphError: a name belongs to something else than a regular file.
    """
    for file in files:
        _require_replaceable(file)
    written = tuple(file.with_name(f".{file.name}.{secrets.token_hex(8)}{_SUFFIX}") for file in files)
    try:
        yield written
        for path in written:
            _sync(path)
        for path, file in zip(written, files, strict=True):
            os.replace(path, file)
        _sync(files[0].parent)
    finally:
        for path in written:
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: tuple[str, ...]) -> None:
    """Removes what a process that was killed left of files it was writing.

    Args:
        folder: nobody else writes into it.
        names: of the files.
    """
    for name in names:
        for path in folder.glob(f".{name}.*{_SUFFIX}"):
            path.unlink()


def values_hash(file: IO[bytes]) -> str:
    """SHA-256 of the values in a safetensors file: of what stands behind its header.

    >>> import io
    >>> values_hash(io.BytesIO((2).to_bytes(8, "little") + b"{}")) == hashlib.sha256().hexdigest()
    True

    Args:
        file: of any position, which is at the end afterwards.
    """
    file.seek(0)
    file.seek(8 + int.from_bytes(file.read(8), "little"))
    found = hashlib.sha256()
    while piece := file.read(1 << 20):
        found.update(piece)
    return found.hexdigest()


def with_values_hash(content: bytes) -> bytes:
    """A safetensors file with the hash of its values in its metadata, the same bytes every time.

    The library writes more than one entry of metadata in an order that is another in every process.

    Args:
        content: of the file.
    """
    size = int.from_bytes(content[:8], "little")
    header, values = json.loads(content[8 : 8 + size]), content[8 + size :]
    header["__metadata__"] = {**header.get("__metadata__", {}), VALUES_HASH: hashlib.sha256(values).hexdigest()}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + values


def _require_replaceable(file: Path) -> None:
    try:
        mode = file.lstat().st_mode
    except OSError:  # there is none; what else is wrong, writing will tell
        return
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise GnGraphError(f"'{file}' is {what}, which is not replaced by a file: name another path, or remove it")


def _sync(path: Path) -> None:
    """On the disk, not only handed to the system; a folder too, for that is where names are kept."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and keeps names in its journal
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
