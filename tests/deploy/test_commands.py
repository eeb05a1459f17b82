"""`gngraph export` and `gngraph verify`: from a trained archive to a file that a release pipeline can check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gngraph.files.archive import save
from tests.command_line import Commands
from tests.deploy.test_formats import calibrated, weighed


def test_a_deployed_file_is_timed_calibrated_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gngraph = Commands(capsys)
    graph = calibrated()
    save(graph, tmp_path / "model.gng")
    model, onnx, pt2 = (str(tmp_path / name) for name in ("model.gng", "net.onnx", "net.pt2"))
    words = ["--onnx", onnx, "--precision", "int8", "--opset", "20", "--pt2", pt2]
    shown = gngraph.ok("export", model, "--data", "digits", *words)
    assert "ONNX opset 20, int8" in shown and "onnxruntime: " in shown and " ms (p95 " in shown
    assert "accuracy on 360 test samples: onnxruntime " in shown and "torch.export, " in shown
    for file in (onnx, pt2):
        found = json.loads(gngraph.ok("verify", file, "--against", tmp_path, "--json"))
        assert found["passed"] and found["recorded_sha256"] == found["network_sha256"]
    name = next(iter(graph.params))
    save(graph.with_params({name: graph.params[name].data + 1}), tmp_path / "other.gng")
    refused = gngraph("verify", onnx, "--against", tmp_path / "other.gng")
    assert refused.status == 1 and "FAILED: it says that it was written from the network" in refused.out
    assert "name the data (--data)" in gngraph.refused(
        "export", model, "--onnx", onnx, "--precision", "int8", "--force"
    )


def test_what_is_timed_are_batches_of_samples_wherever_these_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(weighed(), tmp_path / "model.gng")
    shown = Commands(capsys).ok("export", tmp_path / "model.gng", "--onnx", tmp_path / "net.onnx", "--json")
    batches = [own["batch"] for several in json.loads(shown)["files"][0]["milliseconds"].values() for own in several]
    assert batches == 2 * [1, 32]
