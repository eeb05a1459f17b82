"""Files that were made to run code, read foreign memory or exhaust a machine, of every kind that gngraph reads.

Every file whose code would run leaves `MARKER` in the folder in which it is read. `tools/check_files.py` reads them.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gngraph.data import load_data
from gngraph.files.archive import load, load_history
from gngraph.files.checkpoint import load_module

MARKER = "code-was-executed"
"""A file that is there once code from a file has run."""

_TOUCH = f"touch {MARKER}"
_IN_PYTHON = f"open({MARKER!r}, 'w').close()"
_CALLS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("posix system", (_TOUCH,)),
    ("os system", (_TOUCH,)),
    ("os popen", (_TOUCH,)),
    ("os execvp", ("touch", ["touch", MARKER])),
    ("os spawnlp", (0, "touch", "touch", MARKER)),
    ("os open", (MARKER, 0o101)),
    ("os mkdir", (MARKER,)),
    ("subprocess call", (["touch", MARKER],)),
    ("subprocess Popen", (["touch", MARKER],)),
    ("subprocess getoutput", (_TOUCH,)),
    ("builtins eval", (_IN_PYTHON,)),
    ("builtins exec", (_IN_PYTHON,)),
    ("builtins open", (MARKER, "w")),
    ("builtins __import__", ("antigravity",)),
    ("builtins compile", (_IN_PYTHON, "a", "exec")),
    ("builtins getattr", (1, "real")),
    ("builtins bytearray", (1 << 40,)),
    ("io open", (MARKER, "w")),
    ("_io open", (MARKER, "w")),
    ("codecs open", (MARKER, "w")),
    ("pathlib Path.touch", (MARKER,)),
    ("shutil copy", ("model.pt", MARKER)),
    ("timeit timeit", (_IN_PYTHON,)),
    ("cProfile run", (_IN_PYTHON,)),
    ("pdb run", (_IN_PYTHON,)),
    ("runpy run_path", ("model.pt",)),
    ("importlib import_module", ("antigravity",)),
    ("pickle loads", (b"cposix\nsystem\n(V" + _TOUCH.encode() + b"\ntR.",)),
    ("_pickle loads", (b"cposix\nsystem\n(V" + _TOUCH.encode() + b"\ntR.",)),
    ("marshal loads", (b"N",)),
    ("ctypes CDLL", ("libc.so.6",)),
    ("functools partial", (print,)),
    ("operator methodcaller", ("touch",)),
    ("types FunctionType", (1, {})),
    ("numpy load", ("model.pt",)),
    ("numpy fromfile", ("model.pt",)),
    ("torch load", ("model.pt",)),
    ("torch save", (1, MARKER)),
    ("torch.jit load", ("model.pt",)),
    ("torch.hub load", (".", "model")),
    ("torch.package PackageImporter", ("model.pt",)),
    ("torch.utils.cpp_extension load_inline", ("a", "int f() { return 1; }")),
    ("torch.fx.graph_module reduce_graph_module", ({"_code": _IN_PYTHON}, "")),
    ("torch._utils _rebuild_device_tensor_from_numpy", (1, 2, 3, False)),
    ("torch.storage UntypedStorage", (1 << 40,)),
    ("torch.nn.modules.linear Linear", (10**6, 10**6)),
    ("torch.nn.modules.module Module.__setstate__", ({},)),
    ("gngraph.calling called", ("os:getcwd",)),
)


@dataclass(frozen=True)
class Hostile:
    """A file that must not be taken.

    Attributes:
        name: what it tries.
        file: the name that it has.
        content: its bytes.
        read: reads it, from its path, as gngraph's user would.
    """

    name: str
    file: str
    content: bytes
    read: Callable[[Path], object]


def corpus() -> Iterator[Hostile]:
    """All of them: pickles, archives, weights, arrays and pictures."""
    yield from _pickles()
    yield from _archives()
    yield from _weights()
    yield from _arrays()
    yield from _pictures()
    yield from _large()


# Pickles. What stands in a route is made by hand, for Python's own pickler does not write most of it.


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _plain(value: object) -> bytes:
    """An argument as pickle instructions, without a frame around them."""
    written = pickle.dumps(value if not callable(value) else None, protocol=2)
    return written[2:-1]


def _arguments(args: tuple[object, ...]) -> bytes:
    return b"(" + b"".join(map(_plain, args))


def _routes(target: str, args: tuple[object, ...]) -> Iterator[tuple[str, bytes]]:
    """Ways in which a pickle may call a function; each leaves the result on the stack."""
    module, _, name = target.partition(" ")
    found = f"c{module}\n{name}\n".encode()
    by_stack = _text(module) + _text(name) + b"\x93"
    yield "REDUCE", found + _arguments(args) + b"tR"
    yield "STACK_GLOBAL", by_stack + _arguments(args) + b"tR"
    yield "INST", _arguments(args) + f"i{module}\n{name}\n".encode()
    yield "OBJ", b"(" + found + _arguments(args)[1:] + b"o"
    yield "NEWOBJ", found + _arguments(args) + b"t\x81"
    yield "NEWOBJ_EX", found + _arguments(args) + b"t}\x92"
    yield (
        "__setstate__",
        b"ctorch.nn.modules.activation\nReLU\n)\x81}"
        + _text("__setstate__")
        + found
        + b"sb"
        + _arguments(args)
        + b"tb",
    )
    yield "forward", b"ctorch.nn.modules.activation\nReLU\n)\x81}" + _text("forward") + found + b"sb"


def _pickles() -> Iterator[Hostile]:
    zipped, legacy = _saved(nn.Linear(2, 2)), _saved(nn.Linear(2, 2), _use_new_zipfile_serialization=False)
    starts = [i for i in range(len(legacy)) if legacy.startswith(b"\x80\x02", i)]
    for target, args in _CALLS:
        for route, body in _routes(target, args):
            evil = b"\x80\x02" + body + b"."
            named = f"{target.replace(' ', '.')} by {route}"
            yield Hostile(f"{named}, in a zip", "model.pt", with_member(zipped, "data.pkl", evil), load_module)
            yield Hostile(f"{named}, a bare pickle", "model.pkl", evil, load_module)
            before = legacy[: starts[3]] + evil + legacy[starts[4] :]
            yield Hostile(f"{named}, before PyTorch 1.6", "model.pt", before, load_module)


def _saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def with_member(archive: bytes, name: str, content: bytes) -> bytes:
    """A zip with the content of the member whose name ends so replaced, checksums and all."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member.endswith(name) else old.read(member))
    return made.getvalue()


def _bomb(name: str, size: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new, new.open(name, "w", force_zip64=True) as member:
        for _ in range(size >> 24):
            member.write(bytes(1 << 24))
    return made.getvalue()


# Archives.

_GRAPH = """graph Net(%x) {{
  param @fc.weight : f32[3,4]
  %x = input() : f32[N,4]
  {line}
  return %y
}}"""
_TARGETS = """
os.system posix.system builtins.eval builtins.exec builtins.open builtins.__import__ builtins.compile torch.load torch.save
torch.hub.load torch.from_file torch.ops.load_library torch._C._jit_set_profiling_mode torch.set_default_device torch.compile
torch.frombuffer torch.as_strided torch.sparse_coo_tensor torch.utils.cpp_extension.load torch.jit.script
torch.classes.load_library torch.UntypedStorage.resize_ torch.nn.functional.os.system torch.functional.sys.exit
torchvision.ops.misc.sys.exit torchvision.io.read_file torchvision.io.write_file operator.attrgetter operator.methodcaller
math.__loader__ builtins.setattr builtins.delattr builtins.globals builtins.input builtins.print builtins.breakpoint
builtins.vars builtins.type importlib.import_module subprocess.call shutil.rmtree pickle.loads numpy.load gngraph.load
gngraph.calling.called torch.multiprocessing.spawn torch.distributed.init_process_group torch._dynamo.reset
torch._inductor.codecache.AsyncCompile torch.cuda.init torch.fx.wrap .untyped_storage .storage .resize_ .set_ .as_strided_
.to_sparse .indices .values .data_ptr .numpy .tolist .share_memory_ .register_hook .__reduce_ex__ .__class__ .__dict__
.__setattr__ .requires_grad_ .backward .pin_memory .to_mkldnn .map_ .apply_ .__getattribute__ .record_stream .cuda .module_load
.retain_grad .swap_tensors .__init__ . .. os:system ;import__os __builtins__.eval
"""
_NAMES = """
import class None __class__ x);import_os;( x'y x"y x.y x\\ny ../../x training _modules _parameters forward __init__ lambda x=1
*x %x @x self torch nn 0x a-b ä\u202e
"""
_LINES = (
    '%y = linear(%x, bias=None, weight=@fc.weight) : f32[N,3] module "{name}"',
    '%y = linear(%x, bias=None, weight=@fc.weight) : f32[N,3] scope "{name}"',
    "%y = linear(%x, {name}=None, weight=@fc.weight) : f32[N,3]",
    "%{name} = linear(%x, bias=None, weight=@fc.weight) : f32[N,3]",
)
_NUMBERS = (
    "-1",
    "0",
    "1e308",
    "-1e308",
    "99999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "0.5",
    "(0, 0)",
    '"1"',
)
_NUMBERED = (
    "%y = layer_norm(%x, bias=None, weight=None) {{eps={n}, normalized_shape=(4,)}} : f32[N,4]",
    "%y = dropout(%x) {{inplace=False, p={n}}} : f32[N,4]",
    "%y = softmax(%x) {{dim={n}}} : f32[N,4]",
    "%y = flatten(%x) {{end_dim={n}, start_dim={n}}} : f32[N,4]",
    "%y = reshape(%x) {{shape=({n}, {n})}} : f32[N,4]",
    '%y = foreign(%x) {{args=({n}, {n}), kwargs={{}}, target="torch.zeros"}} : f32[N,4]',
    '%y = foreign(%x) {{args=(%x, {n}), kwargs={{}}, target="torch.repeat_interleave"}} : f32[N,4]',
    '%y = foreign(%x) {{args=(%x, {n}, {n}), kwargs={{}}, target=".expand"}} : f32[N,4]',
    '%y = foreign(%x) {{args=({n}, {n}), kwargs={{}}, target="operator.pow"}} : f32[N,4]',
)


def archive_of(lines: list[str], weights: bytes, record: bytes = b"null") -> bytes:
    """An archive with sums that fit what is in it."""

    def found(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    sums = {
        "text": found(json.dumps(lines).encode()),
        "weights.safetensors": found(weights),
        "history.json": found(record),
    }
    header = json.dumps({"format": "gngraph", "version": 1, "text": lines, "sha256": sums}).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        for name, content in (("graph.json", header), ("weights.safetensors", weights), ("history.json", record)):
            new.writestr(name, content)
    return made.getvalue()


def used(path: Path) -> None:
    """Load an archive, and run its network, which may fail in whatever way torch does."""
    from gngraph.errors import GnGraphError
    from gngraph.lowering.probe import probe_of
    from gngraph.lowering.to_torch import to_torch

    graph = load(path)
    load_history(path)
    module = to_torch(graph)
    try:
        with torch.no_grad():
            module(*probe_of(graph, samples=2, dtype=None))
    except GnGraphError:
        raise
    except Exception as error:  # torch's own refusal of a number, which is no harm
        raise GnGraphError(f"it does not run: {type(error).__name__}") from error


def _archives() -> Iterator[Hostile]:
    from safetensors.torch import save

    weights = save({"fc.weight": torch.zeros(3, 4)}, {"format": "pt"})

    def of(name: str, line: str) -> Hostile:
        return Hostile(
            f"an archive with {name}", "net.gng", archive_of(_GRAPH.format(line=line).splitlines(), weights), used
        )

    for target in _TARGETS.split():
        line = f'%y = foreign(%x) {{args=(%x,), kwargs={{}}, target="{target}"}} : f32[N,4]'
        yield of(f"a call of {target}", line)
    for name in _NAMES.split():
        for line in _LINES:
            yield of(f"the name {name!r} in {line.split('(')[0]}", line.format(name=name))
    for number in _NUMBERS:
        for line in _NUMBERED:
            yield of(f"{number} in {line.split('{{')[0]}", line.format(n=number))
    for record in (b"[" * 100_000, b'{"a": NaN}', b"9" * 100_000):
        lines = _GRAPH.format(line=_LINES[0].format(name="fc")).splitlines()
        yield Hostile(
            f"an archive with a history of {len(record)} bytes", "net.gng", archive_of(lines, weights, record), used
        )


# Weights, arrays, pictures.


def _weights() -> Iterator[Hostile]:
    def read(path: Path) -> object:
        return load_module(path, arch="mlp", input_shape=(4,))

    def of(name: str, header: object, values: bytes = bytes(64), length: int | None = None) -> Hostile:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        content = struct.pack("<Q", len(text) if length is None else length) + text + values
        return Hostile(f"weights with {name}", "net.safetensors", content, read)

    def entry(
        dtype: str = "F32", shape: tuple[int, ...] = (4, 4), ends: tuple[int, ...] = (0, 64)
    ) -> dict[str, object]:
        return {"w": {"dtype": dtype, "shape": shape, "data_offsets": ends}}

    yield of("a header beyond the file", entry(), length=99_999_999)
    yield of("a header of 2**63 bytes", entry(), length=2**63)
    for ends in ((0, 1 << 40), (-1, 63), (64, 0), (0, 63), (8, 64), (2**63, 2**63 + 64)):
        yield of(f"values from {ends[0]} to {ends[1]}", entry(ends=ends))
    for shape in ((1 << 40,), (-4, -4), (2**32, 2**32), (0,), (4, 4, 4), tuple([1] * 100_000)):
        yield of(f"a shape of {len(shape)} sizes, {shape[0]} first", entry(shape=shape))
    for dtype in ("F99", "", "F64", "BOOL", "os.system"):
        yield of(f"the dtype {dtype!r}", entry(dtype))
    yield of("two that overlap", {**entry(), "v": entry()["w"]})
    yield of("braces", b'{"a":' * 100_000)
    yield of("a list", [1, 2])
    yield of("metadata that is no text", {**entry(), "__metadata__": {"a": [1]}})


def _npy(descr: str, shape: object, fortran: object = False, values: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + values


def _arrays() -> Iterator[Hostile]:
    def of(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Hostile:
        made, labels = io.BytesIO(), io.BytesIO()
        np.save(labels, np.arange(8) % 2)
        with zipfile.ZipFile(made, "w", compression) as new:
            for array in ("x_train", "x_test", "y_train", "y_test"):
                new.writestr(f"{array}.npy", content if array == "x_train" else labels.getvalue())
        return Hostile(f"arrays with {name}", "data.npz", made.getvalue(), lambda path: load_data(str(path)))

    for target, args in _CALLS:
        body = b"\x80\x02" + dict(_routes(target, args))["REDUCE"] + b"."
        yield of(f"an object that calls {target}", _npy("'|O'", (1,), values=body))
    yield of("a header that is code", _npy(f"__import__('os').system({_TOUCH!r})", (1,)))
    yield of("a shape that is code", _npy("'<f4'", f"(__import__('os').system({_TOUCH!r}),)"))
    for shape in ((1 << 40,), (2**62, 4), (-1, 4), (1 << 20, 1 << 20)):
        yield of(f"a shape of {shape}", _npy("'<f4'", shape))
    yield of("a header of a list", _npy("[('a', '<f4'), ('b', '|O')]", (1,)))
    yield of("zeros that are not there", _npy("'|u1'", (3 << 30,)), zipfile.ZIP_DEFLATED)


def _png(width: int, height: int, values: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", values) + chunk(b"IEND", b"")


def _pictures() -> Iterator[Hostile]:
    """Each is the only picture of its class, so that a folder which leaves it out says so."""
    empty = zlib.compress(b"")
    postscript = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(" + MARKER.encode() + b") (w) file closefile\n%%EOF\n"
    )
    contents = {
        "of 60,000 by 60,000 pixels": _png(60_000, 60_000, empty),
        "of 2**31 pixels in a row": _png(2**31 - 1, 1, empty),
        "of no pixels": _png(0, 0, empty),
        "that is PostScript": postscript,
        "that is a pickle": b"\x80\x02" + dict(_routes("posix system", (_TOUCH,)))["REDUCE"] + b".",
        "that is SVG with an entity": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "that is a TIFF which points at itself": b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 4, 2**32 - 1, 8, 8),
        "that is cut off": _png(8, 8, zlib.compress(bytes(72)))[:40],
    }
    yield from (Hostile(f"a picture {name}", "bad.png", content, _classes_of) for name, content in contents.items())


def _classes_of(path: Path) -> object:
    folder = path.parent / "pictures"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / "bad.png").write_bytes(path.read_bytes())
    return load_data(str(folder))


# What takes long to make, and would to read.


def _large() -> Iterator[Hostile]:
    zipped = _saved(nn.Linear(2, 2))
    for size in (1 << 20, 15 << 20):
        for name, body in (("tuples", b")" + b"\x85" * size), ("marks", b"(" * size), ("braces", b"}" * size)):
            content = with_member(zipped, "data.pkl", b"\x80\x02" + body + b".")
            yield Hostile(f"{size >> 20} MiB of {name}", "model.pt", content, load_module)
    yield Hostile("a zip that unpacks to 2 GB", "model.pt", _bomb("data.pkl", 2 << 30), load_module)
    yield Hostile(
        "arrays that unpack to 2 GB", "data.npz", _bomb("x_train.npy", 2 << 30), lambda path: load_data(str(path))
    )
    yield Hostile("an archive that unpacks to 2 GB", "net.gng", _bomb("graph.json", 2 << 30), used)
    record = b'"' + b"a" * (65 << 20) + b'"'
    yield Hostile("an archive with a history of 65 MiB", "net.gng", archive_of(["graph Net(%x) {"], b"", record), used)
    yield Hostile("a picture that unpacks to 1 GB", "bad.png", _png(8, 8, zlib.compress(bytes(1 << 30))), _classes_of)
