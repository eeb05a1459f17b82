"""The archive `.gng`: a zip of `graph.json`, `weights.safetensors` and `history.json`.

`graph.json` holds {"format": "gngraph", "version": 1, "text": [lines], "sha256": {name: sum}}: the lines of the graph's text form,
and sums of what "text" and the other two members hold. The weights are stored under the parameters' names (tied names are in the
graph alone), and the history is the caller's: growth record, preprocessing, provenance. Nothing in an archive is unpickled,
imported or run; every member is checked, and the graph vetted, before a `Graph` leaves this module. The same content gives the
same bytes: members are stored uncompressed, in a fixed order, with a fixed time.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from gngraph.errors import ArchiveError, GnGraphError, IRError, path_text
from gngraph.ir import Graph
from gngraph.ir.graph import checked
from gngraph.ir.text import format_graph, parse
from gngraph.ops.vet import vet
from gngraph.writing import replacing

Json = Any
"""None, bool, int, finite float, str, or lists / dictionaries (with string keys) of them."""

INPUTS = "inputs"
"""Key of a history under which an archive keeps how samples become inputs."""

VERSION = 1
"""Version of the format that is written, and the only one that is read."""

_GRAPH, _WEIGHTS, _HISTORY = "graph.json", "weights.safetensors", "history.json"
_MEMBERS = (_GRAPH, _WEIGHTS, _HISTORY)
_MAX_JSON = 64 << 20
_MAX_RATIO = 100
"""A member that unpacks to more than this many times its packed size is taken for a zip bomb."""
_MAX_COMPRESSED = 256 << 20
_RESERVED = "__metadata__"
_TEXT, _SUMS = "text", "sha256"


def save(graph: Graph, path: str | os.PathLike[str], *, history: Json = None) -> None:
    """Write `graph` with its weights, and `history` beside them, to the archive `path`.

    The file appears whole or not at all: it is written beside `path` and then renamed over it. One copy of the weights
    is held in memory meanwhile.

    Raises:
        ArchiveError: a parameter has no values or a dtype that safetensors lacks, `history` is not `Json`, `vet`
            refuses the graph, or the file system does.
    """
    path, graph = path_text(path), checked(graph)
    try:
        vet(graph)
        lines = format_graph(graph).splitlines()
    except IRError as error:
        raise ArchiveError(f"graph '{graph.name}' cannot be saved: {error}") from error
    try:
        record = json.dumps(history, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArchiveError(f"the history for '{path}' is not JSON with finite numbers: {error}") from error
    weights = _encode_weights(graph)
    sums = {_TEXT: _sum(_joined(lines)), _WEIGHTS: _sum(weights), _HISTORY: _sum(record)}
    header = json.dumps({"format": "gngraph", "version": VERSION, _TEXT: lines, _SUMS: sums}, indent=1).encode()
    try:
        with replacing(Path(path)) as (file,), zipfile.ZipFile(file, "x", zipfile.ZIP_STORED) as archive:
            for name, content in zip(_MEMBERS, (header, weights, record), strict=True):
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16
                archive.writestr(info, content)
    except OSError as error:
        raise ArchiveError(f"archive '{path}' cannot be written: {error.strerror or error}") from error


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph in the archive `path`, with its weights, on the CPU.

    Raises:
        ArchiveError: the file is missing, damaged, of another version, or holds what an archive must not; one sentence
            says which.
    """
    with _opened(path) as archive:
        header = archive.json(_GRAPH)
        graph = _decode_graph(header, path)
        values = _decode_weights(archive.bytes(_WEIGHTS, _weights_limit(graph)), graph, path)
        archive.json(_HISTORY)
        archive.require_as_written(header)
    return graph.with_params(values)


def load_history(path: str | os.PathLike[str]) -> Json:
    """The history in the archive `path`, as given to `save`; the weights are not read.

    Raises:
        ArchiveError: as for `load`, as far as the container and the history are concerned.
    """
    with _opened(path) as archive:
        history = archive.json(_HISTORY)
        archive.require_as_written(archive.json(_GRAPH))
    return history


def recorded_inputs(path: str | os.PathLike[str]) -> Json:
    """How samples become inputs of the network in the archive `path`, see `gngraph.data.Data.inputs_record`; None: it does not say.

    Raises:
        ArchiveError: as for `load_history`.
    """
    history = load_history(path)
    return history.get(INPUTS) if isinstance(history, Mapping) else None


def _encode_weights(graph: Graph) -> bytes:
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, parameter in graph.params.items():
        data = parameter.data.detach()
        if data.is_meta:
            raise ArchiveError(f"graph '{graph.name}' cannot be saved: parameter '{name}' has no values (meta device)")
        if data.dtype == torch.complex128 or name == _RESERVED:
            what = f"dtype '{parameter.type.dtype}'" if name != _RESERVED else "a name that safetensors reserves"
            raise ArchiveError(f"graph '{graph.name}' cannot be saved: parameter '{name}' has {what}")
        data = data.cpu().contiguous()
        if data.untyped_storage().data_ptr() in storages:  # safetensors refuses tensors that overlap
            data = data.clone()
        storages.add(data.untyped_storage().data_ptr())
        tensors[name] = data
    return safetensors.torch.save(tensors, {"format": "pt"})


class _Container:
    """The members of an open archive, read one by one under limits."""

    def __init__(self, path: str | os.PathLike[str], archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        names = [info.filename for info in archive.infolist()]
        missing = [name for name in _MEMBERS if name not in names]
        extra = [name for name in names if name not in _MEMBERS]
        if missing:
            raise ArchiveError(
                f"archive '{path}' has no member '{missing[0]}'; it is not a gngraph archive or is damaged"
            )
        if extra or len(names) > len(_MEMBERS):
            raise ArchiveError(
                f"archive '{path}' has the member {(extra or names)[0][:80]!r} too many; refusing to read it"
            )
        self._sums: dict[str, str] = {}

    def bytes(self, name: str, limit: int) -> bytes:
        """Content of member `name`, which may have at most `limit` bytes."""
        info = self._archive.getinfo(name)
        if info.file_size > limit:
            raise ArchiveError(
                f"member '{name}' of archive '{self._path}' has {info.file_size} bytes; at most {limit} fit"
            )
        if info.file_size > _MAX_RATIO * max(info.compress_size, 1):
            raise ArchiveError(
                f"member '{name}' of archive '{self._path}' unpacks from {info.compress_size} to {info.file_size} "
                f"bytes, which is more than {_MAX_RATIO} times; refusing to unpack it"
            )
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > _MAX_COMPRESSED:
            raise ArchiveError(
                f"member '{name}' of archive '{self._path}' is compressed and has {info.file_size} bytes; gngraph writes "
                f"members as they are, and unpacks at most {_MAX_COMPRESSED} bytes of what another program compressed"
            )
        with self._archive.open(info) as member:
            content = member.read()
        if len(content) != info.file_size:
            raise ArchiveError(
                f"member '{name}' of archive '{self._path}' has {len(content)} bytes instead of {info.file_size}; "
                "the archive is damaged"
            )
        self._sums[name] = _sum(content)
        return content

    def require_as_written(self, header: Json) -> None:
        """Require that the members read so far, and the header's text, are what the header was written for."""
        if not isinstance(header, Mapping) or not isinstance(header.get(_SUMS), Mapping):
            return  # an archive from before there were sums
        found = self._sums | {_TEXT: _sum(_joined(header.get(_TEXT)))}
        for name, written in header[_SUMS].items():
            if found.get(name, written) != written:
                what = f"text in '{_GRAPH}'" if name == _TEXT else f"member '{name}'"
                raise ArchiveError(
                    f"the {what} of archive '{self._path}' is not what was written with the rest of it; copy the archive again"
                )

    def json(self, name: str) -> Json:
        """Content of member `name` as JSON; NaN and infinities are refused."""
        content = self.bytes(name, _MAX_JSON)
        try:
            return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"member '{name}' of archive '{self._path}' is not JSON: {error}") from error


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Container]:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            yield _Container(path, archive)
    except GnGraphError:
        raise
    except OSError as error:
        raise ArchiveError(f"archive '{path}' cannot be read: {error.strerror or error}") from error
    except (
        Exception
    ) as error:  # zipfile reports damage by a dozen types, struct.error and NotImplementedError among them
        raise ArchiveError(f"archive '{path}' is damaged or not a zip file: {error}") from error


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _joined(lines: Json) -> bytes:
    return json.dumps(lines).encode()


def _refuse_constant(text: str) -> Json:
    raise ValueError(f"'{text}' is not JSON")


def _decode_graph(header: Json, path: str | os.PathLike[str]) -> Graph:
    if not isinstance(header, Mapping) or header.get("format") != "gngraph":
        raise ArchiveError(f"'{_GRAPH}' of archive '{path}' does not say that its format is 'gngraph'")
    version, lines = header.get("version"), header.get(_TEXT)
    if type(version) is not int or version != VERSION:
        raise ArchiveError(
            f"archive '{path}' has version {version!r:.40}, but this gngraph reads version {VERSION}; "
            "use the gngraph that wrote it"
        )
    if not {"format", "version", _TEXT} <= set(header) <= {"format", "version", _TEXT, _SUMS} or not isinstance(
        lines, list
    ):
        raise ArchiveError(
            f"'{_GRAPH}' of archive '{path}' must have the keys 'format', 'version', '{_TEXT}' (lines) and '{_SUMS}'"
        )
    if not all(isinstance(line, str) for line in lines):
        raise ArchiveError(f"'{_GRAPH}' of archive '{path}' has a line that is not text")
    try:
        graph = parse("\n".join(lines))
        vet(graph)
    except GnGraphError as error:
        raise ArchiveError(f"the graph in archive '{path}' is refused: {error}") from error
    return graph


def _weights_limit(graph: Graph) -> int:
    """Bytes that the weights of `graph` may take: their values and a generous header."""
    values = sum(p.data.numel() * p.data.element_size() for p in graph.params.values())
    return values + 4096 + sum(512 + 6 * len(name) for name in graph.params)


def _decode_weights(content: bytes, graph: Graph, path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:  # the Rust parser's own exception class, or KeyError for a dtype torch does not have
        raise ArchiveError(f"'{_WEIGHTS}' of archive '{path}' is damaged: {error}") from error
    for name in (*graph.params, *tensors):
        if name not in tensors:
            raise ArchiveError(f"archive '{path}' has no weights for parameter '{name}' of its graph")
        if name not in graph.params:
            raise ArchiveError(f"archive '{path}' has weights '{name}', which its graph does not have")
        found, asked = tensors[name], graph.params[name]
        if found.shape != asked.data.shape or found.dtype != asked.data.dtype:
            raise ArchiveError(
                f"archive '{path}' has weights '{name}' of shape {tuple(found.shape)} and {found.dtype}, "
                f"but its graph says '{asked.type}'"
            )
    return tensors
