"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gngraph.errors import GnGraphError
from gngraph.writing import remove_unfinished, replacing, values_hash, with_values_hash


def test_files_appear_together_and_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(first, second) as written:
        for path in written:
            path.write_text("new")
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and first.read_text() == "old"
    with replacing(first, second) as written:
        for path in written:
            path.write_text("new")
        assert first.read_text() == "old" and not second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"] and first.read_text() == "new"


def test_weights_with_their_hash_are_the_same_bytes_every_time() -> None:
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2)}
    plain = safetensors.torch.save(tensors, {"format": "pt"})
    hashed = with_values_hash(plain)
    start, found = b'{"__metadata__":{"format":"pt","sha256":"', values_hash(io.BytesIO(plain))
    assert hashed[8:].startswith(start + found.encode()) and values_hash(io.BytesIO(hashed)) == found
    assert (int.from_bytes(hashed[:8], "little") % 8, len(hashed) - len(plain)) == (0, 80)
    read = safetensors.torch.load(hashed)
    assert set(read) == set(tensors) and all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_links_pipes_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("link", "a link"), ("folder", "a folder"), ("pipe", "no regular file")):
        with (
            pytest.raises(GnGraphError, match=rf"{name}' is {what}, which is not replaced"),
            replacing(tmp_path / name),
        ):
            pytest.fail("it was opened for writing")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "kept"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".model.gng.0123456789abcdef.tmp", ".other.0123456789abcdef.tmp", "model.gng"):
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path, ("model.gng",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123456789abcdef.tmp", "model.gng"]
