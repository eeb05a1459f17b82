"""Tells what the name of a network stands for: a factory, or a file, whose format is told by its content.

Nothing is unpickled, suffixes say nothing, and torch is not needed, so that a file that is not there is told at once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from gngraph.calling import is_factory, of_library
from gngraph.errors import ModelFileError
from gngraph.files.pickle_audit import (
    MAX_PICKLE_BYTES,
    Audit,
    Built,
    MalformedPickleError,
    audit_pickle,
)


class FileFormat(Enum):
    """What a file is; the value completes the sentence "the file is ...".

    `TORCH_OBJECT` is a torch.save file whose pickle cannot be read, or holds something else than the first four.
    """

    WHOLE_MODULE = "a pickled module"
    STATE_DICT = "a state dict"
    CHECKPOINT = "a checkpoint dictionary"
    FX_GRAPH_MODULE = "a pickled torch.fx.GraphModule"
    TORCH_OBJECT = "a torch.save file"
    TORCH_LEGACY = "a torch.save file in the format of PyTorch before 1.6"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORT_PT2 = "a torch.export archive"
    PICKLE = "a plain pickle"
    GNG_ARCHIVE = "a gngraph archive"
    SAFETENSORS = "a safetensors file"
    ONNX = "an ONNX file"
    OTHER_ZIP = "a zip archive, but of no model format"
    TRUNCATED_ZIP = "a zip archive that is cut off or damaged"
    EMPTY = "an empty file"
    LFS_POINTER = "a Git LFS pointer, not the model itself"
    TEXT = "a text file"
    UNKNOWN = "a file of an unknown format"


@dataclass(frozen=True)
class FileInfo:
    """What a file is and, for torch.save files, what loading it would do.

    Attributes:
        format: the format, told by content.
        audit: None where the file is no torch.save file, or its pickle cannot be read.
        damage: why the pickle of a torch.save file cannot be read, else None.
    """

    format: FileFormat
    audit: Audit | None = None
    damage: str | None = None


_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_LFS = b"version https://git-lfs.github.com"
_FX_REBUILD = {"torch.fx.graph_module.reduce_graph_module", "torch.fx.graph_module.reduce_package_graph_module"}
_HEAD_BYTES = 4096
_FOLDER = 0x10
"""Bit of a zip member's attributes."""


def names_factory(source: str | Path) -> bool:
    """Whether `source` names a factory; a file of that spelling comes first."""
    return is_factory(str(source)) and not Path(source).exists()


def require_there(source: str | Path) -> None:
    """Require that `source` names a factory, a network of another library, or a file that can be opened.

    Raises:
        ModelFileError: there is no readable file at `source`.
    """
    if not names_factory(source) and not of_library(str(source)):
        with _opened(source):
            pass


def sniff(path: str | Path) -> FileFormat:
    """The format of the file at `path`.

    Raises:
        ModelFileError: there is no readable file at `path`.
    """
    return inspect_file(path).format


def inspect_file(path: str | Path) -> FileInfo:
    """The format of the file at `path`, with an audit of its pickle where `torch.save` wrote it.

    Reads the head of the file, and of a torch.save file the pickle (at most 16 MiB), and all of it once for its checksums.

    Raises:
        ModelFileError: there is no readable file at `path`.
    """
    with _opened(path) as file:
        return _inspect(file)


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[bytes]]:
    if Path(path).is_dir():
        raise ModelFileError(f'"{path}" is a folder, not a model file; name the file inside it')
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise ModelFileError(
            f'there is no file "{path}"; give a model file, or pkg.module:factory to call a function that makes one'
        ) from error
    except OSError as error:
        raise ModelFileError(f'"{path}" cannot be read: {error.strerror or error}') from error


def _inspect(file: IO[bytes]) -> FileInfo:
    head = file.read(_HEAD_BYTES)
    size = file.seek(0, 2)
    if head.startswith(b"PK"):
        return _inspect_zip(file)
    if head.startswith(_LEGACY_MAGIC):
        return _inspect_legacy(file, size)
    return FileInfo(_format_of_head(head, size))


def _format_of_head(head: bytes, size: int) -> FileFormat:
    if not head:
        return FileFormat.EMPTY
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return FileFormat.PICKLE
    # safetensors: the length of a JSON header (8 bytes, little endian), then the header.
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 100_000_000:
        return FileFormat.SAFETENSORS
    # ONNX: field 1 of ModelProto (ir_version, a small varint), then the tag of another of its fields.
    if head[0] == 0x08 and len(head) > 2 and head[1] < 0x20 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42":
        return FileFormat.ONNX
    if head.startswith(_LFS):
        return FileFormat.LFS_POINTER
    return FileFormat.TEXT if _is_text(head, size) else FileFormat.UNKNOWN


def _is_text(head: bytes, size: int) -> bool:
    cut_inside_character = 3 if size > len(head) else 0
    for shorter in range(cut_inside_character + 1):
        try:
            text = head[: len(head) - shorter].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return all(character.isprintable() or character in "\t\n\r\f" for character in text)
    return False


def _inspect_zip(file: IO[bytes]) -> FileInfo:
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
            if "graph.json" in members and "weights.safetensors" in members:
                return FileInfo(FileFormat.GNG_ARCHIVE)
            if "constants.pkl" in members:
                return FileInfo(FileFormat.TORCHSCRIPT)
            if "archive_format" in members:
                return FileInfo(FileFormat.EXPORT_PT2)
            if "data.pkl" in members:
                return _inspect_torch_save(archive, members)
            return FileInfo(FileFormat.OTHER_ZIP)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return FileInfo(FileFormat.TRUNCATED_ZIP)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by name, without the root folder that torch puts around them."""
    entries = archive.infolist()
    roots = {entry.filename.partition("/")[0] for entry in entries}
    prefix = f"{roots.pop()}/" if len(roots) == 1 else ""
    return {entry.filename.removeprefix(prefix): entry for entry in entries}


def _inspect_torch_save(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> FileInfo:
    if len(members) != len(archive.infolist()):
        return FileInfo(FileFormat.TORCH_OBJECT, damage="it has two members of one name")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in members.values()):
        return FileInfo(FileFormat.TORCH_OBJECT, damage="it is compressed, which torch.save never does")
    if any(entry.is_dir() or entry.external_attr & _FOLDER for entry in members.values()):
        # torch's reader skips what is marked so, and leaves the memory of its tensor as it finds it
        return FileInfo(FileFormat.TORCH_OBJECT, damage="it marks a member as a folder")
    entry = members["data.pkl"]
    if entry.file_size > MAX_PICKLE_BYTES:
        return FileInfo(FileFormat.TORCH_OBJECT, damage=f"its pickle is larger than {MAX_PICKLE_BYTES} bytes")

    def has_storage(key: str, size: int) -> bool:
        record = members.get(f"data/{key}")
        return record is not None and record.file_size == size

    broken = archive.testzip()
    if broken is not None:
        return FileInfo(FileFormat.TORCH_OBJECT, damage=f"the checksum of its member '{broken}' is wrong")
    with archive.open(entry) as stream:
        try:
            audit = audit_pickle(stream, has_storage)
        except MalformedPickleError as error:
            return FileInfo(FileFormat.TORCH_OBJECT, damage=str(error))
    return FileInfo(_format_of_root(audit.root), audit)


def _inspect_legacy(file: IO[bytes], file_size: int) -> FileInfo:
    """The old format: pickles of a magic number, a version, the machine, the object, the tensors' keys; then their bytes."""
    sizes: dict[str, int] = {}

    def has_storage(key: str, size: int) -> bool:
        # The records stand behind the object: here only their sum is bounded, and each is looked at below.
        return sizes.setdefault(key, size) == size and sum(sizes.values()) <= file_size

    file.seek(0)
    try:
        plain = [audit_pickle(file, has_storage) for _ in range(3)]
        audit = audit_pickle(file, has_storage)
        keys = audit_pickle(file, has_storage)
    except MalformedPickleError as error:
        return FileInfo(FileFormat.TORCH_LEGACY, damage=str(error))
    if any(part.names or part.faults for part in (*plain, keys)):
        return FileInfo(FileFormat.TORCH_LEGACY, damage="it has more than numbers and texts around its object")
    damage = _legacy_damage(file, file_size, keys.root, sizes)
    return FileInfo(FileFormat.TORCH_LEGACY, None if damage else audit, damage)


def _legacy_damage(file: IO[bytes], file_size: int, keys: object, sizes: Mapping[str, int]) -> str | None:
    """Why the tensors' records do not belong to the object: torch leaves memory that no record fills as it finds it."""
    if not isinstance(keys, list) or len(set(map(str, keys))) != len(keys) or set(keys) != set(sizes):
        return "its list of tensors is not that of its object"
    for key in keys:
        count, size = int.from_bytes(file.read(8), "little"), sizes[key]
        # What a record's elements take is known from the object alone: the count must divide it into 1, 2, 4, 8 or 16 bytes.
        if count * 16 < size or count > size or (size and (not count or size % count)):
            return f'the record "{key}" has {count} elements, which does not fit its tensor'
        file.seek(size, 1)
    return None if file.tell() == file_size else "its tensors do not end where the file does"


def _format_of_root(root: object) -> FileFormat:
    if not isinstance(root, Built):
        return FileFormat.TORCH_OBJECT
    if root.path in _FX_REBUILD:
        return FileFormat.FX_GRAPH_MODULE
    if root.path in ("dict", "collections.OrderedDict"):
        values = [value for _, value in root.items]
        return FileFormat.STATE_DICT if values and all(map(_is_tensor, values)) else FileFormat.CHECKPOINT
    made_without_a_call = root.args is None and root.path != "set"
    return FileFormat.WHOLE_MODULE if made_without_a_call else FileFormat.TORCH_OBJECT


def _is_tensor(value: object) -> bool:
    return isinstance(value, Built) and value.path.startswith("torch._utils._rebuild_")
