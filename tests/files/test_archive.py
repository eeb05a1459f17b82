"""Archives: what is saved comes back, the same content gives the same bytes, and no damage gets through."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gngraph.errors import ArchiveError
from gngraph.files import archive
from gngraph.files.archive import load, load_history, save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, diff, parse, same_structure
from gngraph.lowering.to_torch import to_torch

NET = """\
graph Net(%x) {
  param @fc.weight : f32[5,4] aliases (@tied.weight at 3)
  param frozen @fc.bias : bf16[5]
  buffer @bn.num_batches_tracked : i64[]
  buffer @wide : f64[3]
  constant @mask : bool[2,2]
  constant @empty : f32[0,3]
  param @phase : c64[2]
  %x = input() : f32[N,4]
  %fc = linear(%x, bias=@fc.bias, weight=@fc.weight) : f32[N,5] module "fc"
  %relu = relu(%fc) : f32[N,5]
  return (%relu, {logits=%fc})
}
"""
HISTORY = {"rounds": [{"split": [1, 2], "predicted": -0.25}], "mean": [0.5], "note": 'é "quoted" \u2028'}
GRAPH, WEIGHTS, RECORD = "graph.json", "weights.safetensors", "history.json"


def network(seed: int = 0) -> Graph:
    """A small network with a parameter of every kind and most dtypes."""
    generator = torch.Generator().manual_seed(seed)
    graph = parse(NET)
    return graph.with_params(
        {name: torch.randn(p.data.shape, generator=generator).to(p.data.dtype) for name, p in graph.params.items()}
    )


def members(path: Path) -> dict[str, bytes]:
    """Content of every member of an archive."""
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewrite(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip of these members."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def header(path: Path, **changes: Any) -> bytes:
    """The archive's graph.json with keys replaced, from before there were sums."""
    return json.dumps({k: v for k, v in json.loads(members(path)[GRAPH]).items() if k != "sha256"} | changes).encode()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.gng"
    save(network(), path, history=HISTORY)
    return path


def equal(a: Graph, b: Graph) -> bool:
    return same_structure(a, b) and not diff(a, b).weights.differing


def test_round_trip(saved: Path) -> None:
    graph = load(saved)
    assert equal(graph, network())
    assert diff(graph, network()).weights.compared == len(graph.params)
    assert load_history(saved) == HISTORY
    graph.params["fc.weight"].data.add_(1)  # the values are the graph's own


def test_a_traced_network_computes_the_same(tmp_path: Path) -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)
            self.bn = torch.nn.BatchNorm2d(6)
            self.head = torch.nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.bn(self.conv(x)).chunk(2, dim=1)
            y = torch.einsum("nchw,nchw->nc", a, b.sigmoid())
            result: torch.Tensor = self.head(torch.cat([y, y.view(x.shape[0], -1)], 1))
            return result

    x = torch.randn(2, 3, 8, 8)
    module = Block().eval()
    save(from_torch(module, x), tmp_path / "a.gng")
    back = to_torch(load(tmp_path / "a.gng"))
    assert torch.equal(back(x), module(x)) and list(back.state_dict()) == list(module.state_dict())


def test_members_can_be_read_without_gngraph(saved: Path) -> None:
    content = members(saved)
    assert list(content) == [GRAPH, WEIGHTS, RECORD]
    record = json.loads(content[GRAPH])
    assert (record["format"], record["version"], record["text"][0]) == ("gngraph", 1, "graph Net(%x) {")
    weights = safetensors.torch.load(content[WEIGHTS])
    assert set(weights) == set(network().params) and "tied.weight" not in weights
    with zipfile.ZipFile(saved) as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}


def test_same_content_same_bytes(tmp_path: Path) -> None:
    save(network(), tmp_path / "a.gng", history=HISTORY)
    save(network(), tmp_path / "b.gng", history=HISTORY)
    save(network(1), tmp_path / "c.gng", history=HISTORY)
    assert (tmp_path / "a.gng").read_bytes() == (tmp_path / "b.gng").read_bytes()
    assert (tmp_path / "a.gng").read_bytes() != (tmp_path / "c.gng").read_bytes()


def test_no_history_is_none(tmp_path: Path) -> None:
    save(network(), tmp_path / "a.gng")
    assert load_history(str(tmp_path / "a.gng")) is None


def test_parameters_that_share_memory_or_are_strided(tmp_path: Path) -> None:
    whole = torch.arange(40.0)
    graph = network().with_params({"fc.weight": whole[:20].view(4, 5).t(), "wide": whole[20:23].double()})
    graph = graph.with_params({"phase": torch.view_as_complex(whole[:4].view(2, 2))})
    save(graph, tmp_path / "a.gng")
    assert equal(load(tmp_path / "a.gng"), graph)


def test_compressed_by_another_program(saved: Path) -> None:
    assert equal(load(rewrite(saved, members(saved), zipfile.ZIP_DEFLATED)), network())


def test_saving_replaces_whole_files_only(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArchiveError, match="cannot be written: No space left on device"):
            save(network(1), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    save(network(1), saved)
    assert equal(load(saved), network(1))
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.gng"
    with pytest.raises(ArchiveError, match=r"parameter 'fc\.weight' has no values"):
        save(parse(NET), path)
    double = parse("graph G(%x) { param @p : c128[1] %x = input() : f32[N] return %x }")
    with pytest.raises(ArchiveError, match="dtype 'c128'"):
        save(double.with_params({"p": torch.zeros(1, dtype=torch.complex128)}), path)
    for history in ({"a": float("nan")}, {"a": torch.zeros(1)}, {(1, 2): 3}):
        with pytest.raises(ArchiveError, match="is not JSON"):
            save(network(), path, history=history)
    with pytest.raises(ArchiveError, match="not a Python identifier"):
        save(parse('graph "a b"(%x) { %x = input() : f32[N] return %x }'), path)
    with pytest.raises(ArchiveError, match="cannot be written: No such file"):
        save(network(), tmp_path / "no folder" / "a.gng")
    assert os.listdir(tmp_path) == []


def test_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.gng"
    with pytest.raises(ArchiveError, match="cannot be read: No such file"):
        load(path)
    with pytest.raises(ArchiveError, match="cannot be read: Is a directory"):
        load(tmp_path)
    for content in (b"", b"hello", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(ArchiveError):
            load(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ArchiveError, match=r"has no member 'graph\.json'"):
        load(path)


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, RECORD])
def test_missing_member(saved: Path, name: str) -> None:
    content = members(saved)
    del content[name]
    with pytest.raises(ArchiveError, match=f"has no member '{name}'"):
        load(rewrite(saved, content))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_extra_member(saved: Path) -> None:
    content = members(saved)
    for name in ("data.pkl", "../evil", f"sub/{GRAPH}"):
        with pytest.raises(ArchiveError, match="too many"):
            load(rewrite(saved, content | {name: b""}))
    rewrite(saved, content)
    with zipfile.ZipFile(saved, "a") as file:
        file.writestr(GRAPH, content[GRAPH])
    with pytest.raises(ArchiveError, match="too many"):
        load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2, but this gngraph reads version 1"),
        ({"version": "1"}, "has version '1'"),
        ({"version": True}, "has version True"),
        ({"version": None}, "has version None"),
        ({"format": "other"}, "does not say that its format is 'gngraph'"),
        ({"text": "graph"}, "must have the keys"),
        ({"text": [1]}, "has a line that is not text"),
        ({"extra": 1}, "must have the keys"),
        ({"text": ["graph Net(%x) {"]}, "is refused: line 1, column 16: expected 'return'"),
        ({"text": [NET.replace("relu(", "reluu(")]}, "is refused: 'reluu' is not an op"),
        ({"text": [NET.replace("relu(%fc)", "relu(%no)")]}, "reads 'no', which does not exist"),
        (
            {"text": [NET.replace("= relu(%fc)", '= foreign(%fc) {args=(%fc,), kwargs={}, target="torch.load"}')]},
            "torch.load",
        ),
        ({"text": [NET.replace("f64[3]", "f64[4]")]}, r"weights 'wide' of shape (3,) and torch.float64"),
        ({"text": [NET.replace("f64[3]", "i64[3]")]}, "but its graph says 'i64[3]'"),
        ({"text": [NET.replace("f64[3]", f"f64[{2**40}]")]}, "weights 'wide' of shape (3,)"),
        ({"text": [NET.replace("@wide", "@narrow")]}, "has no weights for parameter 'narrow'"),
        ({"text": [NET.replace("  buffer @wide : f64[3]\n", "")]}, "has weights 'wide', which its graph does not have"),
        ({"text": [NET.replace("@fc.weight : f32[5,4]", "@fc.weight : f32[6,4]")]}, "is refused: node 'fc'"),
    ],
)
def test_wrong_graph(saved: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        load(rewrite(saved, members(saved) | {GRAPH: header(saved, **changes)}))
    assert message in str(caught.value)


def test_members_that_were_not_written_together_are_refused(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gng"
    save(network(seed=1), other, history="another")
    content, others, without = members(saved), members(other), header(saved)
    for name in (WEIGHTS, RECORD):
        with pytest.raises(ArchiveError, match=f"the member '{name}' of archive .* is not what was written"):
            load(rewrite(saved, content | {name: others[name]}))
    with pytest.raises(ArchiveError, match=r"the member 'history\.json'"):
        load_history(saved)
    for text in (
        content[GRAPH].replace(b"graph Net", b"graph Not"),
        content[GRAPH].replace(b"param @phase", b"buffer @phase"),
    ):
        assert text != content[GRAPH]
        with pytest.raises(ArchiveError, match=r"the text in 'graph\.json' of archive"):
            load(rewrite(saved, content | {GRAPH: text}))
    assert equal(load(rewrite(saved, content | {GRAPH: without})), network())


@pytest.mark.parametrize("name", [GRAPH, RECORD])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"NaN", b"1" * 5000, b'{"a": Infinity}', b'"\\ud800" x']
)
def test_wrong_json(saved: Path, name: str, content: bytes) -> None:
    with pytest.raises(ArchiveError, match=f"member '{name}' of archive .* is not JSON"):
        load(rewrite(saved, members(saved) | {name: content}))


@pytest.mark.parametrize("content", [b"[]", b"null", b"1", b'"gngraph"', b"{}"])
def test_graph_json_of_another_kind(saved: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError, match="does not say that its format"):
        load(rewrite(saved, members(saved) | {GRAPH: content}))


def test_wrong_weights(saved: Path) -> None:
    content = members(saved)
    for weights in (b"", b"hello", content[WEIGHTS][:-1], content[WEIGHTS] + b"\0", b"\xff" * 8):
        with pytest.raises(ArchiveError, match=r"'weights\.safetensors' of archive .* is damaged"):
            load(rewrite(saved, content | {WEIGHTS: weights}))
    with pytest.raises(ArchiveError, match="bytes; at most"):
        load(rewrite(saved, content | {WEIGHTS: bytes(1 << 20)}))


def test_zip_bombs(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = members(saved)
    with pytest.raises(ArchiveError, match="more than 100 times; refusing to unpack"):
        load(rewrite(saved, content | {RECORD: b"0" * 10_000_000}, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(archive, "_MAX_COMPRESSED", 50)
    with pytest.raises(ArchiveError, match="unpacks at most 50 bytes of what another program compressed"):
        load(rewrite(saved, content, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(archive, "_MAX_JSON", 100)
    with pytest.raises(ArchiveError, match="bytes; at most 100 fit"):
        load(rewrite(saved, content))


def test_declared_size_is_not_believed(saved: Path) -> None:
    """The central directory says another size than the member has."""
    data = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as file:
        size = file.getinfo(RECORD).file_size
    directory = data.rindex(b"PK\x01\x02")
    for claimed in (size - 1, size + 1, size * 50, 0):
        data[directory + 24 : directory + 28] = claimed.to_bytes(4, "little")
        saved.write_bytes(data)
        with pytest.raises(ArchiveError):
            load(saved)


def test_every_truncation(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            load(saved)


def test_flipped_bits_are_refused_or_harmless(saved: Path) -> None:
    """A flip in the content is found; one in a zip field that carries nothing, such as a date, changes nothing."""
    whole = saved.read_bytes()
    expected = network()
    generator = random.Random(0)
    places = [(place, 1 << generator.randrange(8)) for place in range(len(whole))]
    for place, mask in places:
        damaged = bytearray(whole)
        damaged[place] ^= mask
        saved.write_bytes(damaged)
        try:
            graph = load(saved)
            history = load_history(saved)
        except ArchiveError as error:
            assert "\n" not in str(error)
        else:
            assert equal(graph, expected) and history == HISTORY


def test_flips_in_content_are_always_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    generator = random.Random(1)
    for content in members(saved).values():
        start = whole.index(content)
        for place in generator.sample(range(start, start + len(content)), 40):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << generator.randrange(8)
            saved.write_bytes(damaged)
            with pytest.raises(ArchiveError):
                load(saved)


def test_random_damage(saved: Path) -> None:
    """Several bytes at a time, stretches cut out or doubled, with checksums repaired as an attacker would."""
    content = members(saved)
    generator = random.Random(2)
    for _ in range(400):
        name = generator.choice([GRAPH, WEIGHTS, RECORD])
        data = bytearray(content[name])
        for _ in range(generator.randrange(1, 4)):
            place = generator.randrange(len(data))
            match generator.randrange(3):
                case 0:
                    data[place] = generator.randrange(256)
                case 1:
                    del data[place : place + generator.randrange(1, 20)]
                case _:
                    data[place:place] = data[place : place + generator.randrange(1, 20)]
        rewrite(saved, content | {name: bytes(data)})
        try:
            load(saved)
            load_history(saved)
        except ArchiveError as error:
            assert str(error)
