"""The demo runs, in its shortest form, and keeps to its budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DEMO), *SHORT, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_demo_runs(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for promised in ("[6/6]", "predicted loss change", "hidden.0: 8 -> ", "ONNX opset", "grown network (budget 1,000)"):
        assert promised in done.stdout
    assert (tmp_path / "demo-run" / "model.onnx").is_file()


def test_demo_refuses_in_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "--max-params", "10")
    assert done.returncode == 1
    assert "demo: error: the seed has" in done.stderr
    assert "Traceback" not in done.stderr
