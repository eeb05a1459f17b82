"""On the command line: what is applied to stored samples is said, kept with the network, and used again."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from gngraph.files.archive import recorded_inputs
from tests.command_line import Commands
from tests.data.arrays import colour_arrays, save_npz


def test_a_network_keeps_the_preprocessing_that_it_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = Commands(capsys)
    save_npz(tmp_path / "a.npz", {**colour_arrays(), "classes": ["cat", "dog", "owl"]})
    dark = colour_arrays()
    dark["x_train"] //= 3
    save_npz(tmp_path / "dark.npz", {**dark, "classes": ["cat", "dog", "owl"]})
    command.ok("seed", "vgg11", "--width", "0.05", "--classes", "3", "--input-shape", "3x16x16", "-o", "seed.gng")
    told = command.ok(
        "train", "seed.gng", "--data", "a.npz", "--normalize", "0.5;0.25", "--epochs", "1", "-o", "net.gng"
    )
    numbers = {"scale": 255.0, "mean": [0.5] * 3, "std": [0.25] * 3, "shape": [3, 16, 16], "axis": 0}
    assert (
        "inputs: (raw / 255 - 0.5) / 0.25 (see --normalize), in training changed by crop{padding=2},flip (see" in told
    )
    kept = recorded_inputs("net.gng")
    assert isinstance(kept, dict) and kept["trained"] == {"data": "a.npz", "samples": 30, "withheld": 16}
    assert {key: kept[key] for key in kept if key != "trained"} == {
        "preprocess": numbers,
        "classes": ["cat", "dog", "owl"],
    }
    again = command.ok("train", "net.gng", "--data", "dark.npz", "--epochs", "0", "-o", "again.gng")
    assert "inputs: (raw / 255 - 0.5) / 0.25" in again  # as it was trained, whatever the data
    anew = command.ok(
        "train", "net.gng", "--data", "dark.npz", "--normalize", "none", "--epochs", "0", "-o", "none.gng"
    )
    assert "inputs: raw / 255" in anew
    command.ok("apply", "new-channels", "net.gng", "-o", "wider.gng")
    command.ok("export", "wider.gng", "--onnx", "wider.onnx", "--source", "wider")
    held = {entry.key: entry.value for entry in onnx.load("wider.onnx").metadata_props}
    assert json.loads(held["preprocess"]) == numbers and json.loads(held["classes"]) == ["cat", "dog", "owl"]
    assert 'CLASSES = ["cat", "dog", "owl"]' in Path("wider/model.py").read_text()
