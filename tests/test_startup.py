"""What short commands import; `tools/bench_startup.py` measures what that takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import COMMANDS, Commands

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    *("matplotlib", "networkx", "numpy", "onnx", "onnxruntime", "onnxscript", "rich", "safetensors"),
    *("sklearn", "torch", "torchvision"),
)
"""Packages whose import a person would notice, alone or together."""

UNREAD = ("deploy", "growth", "importing", "passes", "report", "rewrite", "scoring", "search", "source", "training")
"""Rooms of gngraph that no command needs which only reads archives."""

RUN = """
import sys
import gngraph.cli
for words in {commands}:
    try:
        gngraph.cli.main(words)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
print(*sorted({watched} & set(sys.modules)))
"""

ON_DIGITS = ("--data", "digits")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a new process, which imports gngraph from here."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def imported(*commands: tuple[str, ...], status: int) -> set[str]:
    """What of `HEAVY` and `UNREAD` a new process has imported after these command lines, all of which ended with `status`."""
    watched = {*HEAVY, *(f"gngraph.{room}" for room in UNREAD)}
    code = RUN.format(commands=[list(words) for words in commands], watched=watched)
    done = run(code)
    ends = [line for line in done.stderr.splitlines() if not line.startswith("gngraph: error: there is no file")]
    assert ends == [str(status)] * len(commands), done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_needs_nothing_heavy() -> None:
    assert imported(("--help",), *((name, "--help") for name in COMMANDS), status=0) == set()


def test_a_model_that_is_not_there_is_told_before_torch_is_imported() -> None:
    reading = (
        ("inspect",),
        ("export", "--source", "out"),
        ("score", *ON_DIGITS),
        ("train", *ON_DIGITS, "-o", "out.gng"),
    )
    growing = ((name, *ON_DIGITS, "-o", "out") for name in ("grow", "extend", "reshape", "shrink"))
    absent = (
        *((name, "absent.gng", *options) for name, *options in (*reading, *growing)),
        ("apply", "cleanup", "absent.gng", "-o", "out.gng"),
    )
    assert imported(*absent, status=1) == set()


def test_a_diff_needs_torch_and_the_graph_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands(capsys)
    a, b, absent = (str(tmp_path / name) for name in ("a.gng", "b.gng", "absent.gng"))
    for path, width in ((a, ".03"), (b, ".04")):
        commands.ok("seed", "mlp", "--width", width, "--input-shape", "1x8x8", "-o", path)
    assert imported(("diff", a, absent), ("diff", absent, a), status=2) == set()
    found = imported(("diff", a, b), status=1)
    assert "torch" in found
    assert found <= {"torch", "numpy", "safetensors"}


def test_the_package_alone_needs_nothing_heavy() -> None:
    code = f"import sys, gngraph; print(*({set(HEAVY)} & set(sys.modules)))"
    assert run(code).stdout.split() == []
