"""Runs the command line inside the test's process, and makes small data for it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gngraph.cli import main

COMMANDS = (
    *("seed", "inspect", "show", "train", "evaluate", "score", "passes", "apply"),
    *("grow", "extend", "reshape", "shrink", "resume", "replay", "report", "diff", "export", "verify"),
)
"""Every command."""


MLP = ("seed", "mlp", "--width", "0.03", "--classes", "3", "--input-shape", "1x8x8")
"""Makes a small network for `bars.npz`."""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Commands:
    """Calls `gngraph` with words, in the current working directory."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *words: object) -> Done:
        """The exit status and what was printed."""
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = self.capture.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, out, err)

    def ok(self, *words: object) -> str:
        """What a command printed that must succeed."""
        done = self(*words)
        assert done.status == 0, done.err
        return done.out

    def refused(self, *words: object, status: int = 1) -> str:
        """The one sentence of a command that must be refused."""
        done = self(*words)
        assert done.status == status, (done.status, done.err)
        assert "Traceback" not in done.err + done.out
        (line,) = done.err.strip().splitlines()  # click ends the line of a ^C first
        assert line.startswith("gngraph: error: ")
        return line


def write_bars(path: Path, *, classes: int = 3, count: int = 120) -> Path:
    """An .npz of 1x8x8 pictures whose class is the position of a bright bar."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count)
    images = generator.normal(size=(count, 1, 8, 8)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        image[0, :, label] += 3
    train = count * 3 // 4
    parts = {"x_train": images[:train], "y_train": labels[:train], "x_test": images[train:], "y_test": labels[train:]}
    np.savez(path, **parts)  # type: ignore[arg-type]
    return path
