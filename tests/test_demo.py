"""The demo runs, in its shortest form, and keeps to its budget."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parent.parent / "tools" / "demo.py"
SHORT = (
    "--family",
    "mlp",
    "--width",
    "0.03",
    "--max-params",
    "1k",
    "--rounds",
    "1",
    "--epochs",
    "1",
    "--final-epochs",
    "1",
)


def test_demo_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(DEMO), *SHORT])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(DEMO), run_name="__main__")
    said = capsys.readouterr().out
    for promised in ("[6/6]", "predicted loss change", "hidden.0: 8 -> ", "ONNX opset", "grown network (budget 1,000)"):
        assert promised in said
    assert (tmp_path / "demo-run" / "model.onnx").is_file()


def test_demo_refuses_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), *SHORT, "--max-params", "10"]
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "demo: error: the seed has" in done.stderr
    assert "Traceback" not in done.stderr
