"""Settings of every test: one thread, fixed seeds, and progress lines where no terminal shows any."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.command_line import MLP, Commands, write_bars

os.environ.setdefault("MPLBACKEND", "Agg")
# The networks under test are tiny and pytest runs several workers: more threads a worker only contend for the cores.
torch.set_num_threads(1)

# Derandomised, so that a run repeats; no deadline, as the first call into torch pays for its warm-up.
hypothesis.settings.register_profile("gngraph", deadline=None, derandomize=True, max_examples=30, print_blob=True)
hypothesis.settings.load_profile("gngraph")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state and with one thread, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed writes down pytest's whole stack for a GPU that may come
    torch.set_num_threads(
        1
    )  # a tool that a test ran may have set more, whose waiting for each other takes most of a CPU


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """The command line in an empty folder that holds `bars.npz` and `seed.gng`."""
    monkeypatch.chdir(tmp_path)
    write_bars(tmp_path / "bars.npz")
    commands = Commands(capsys)
    commands.ok(*MLP, "-o", "seed.gng")
    return commands


def pytest_collection_finish() -> None:
    """Take what was imported and collected, which stays until the end, out of what every garbage collection goes through."""
    gc.collect()
    gc.freeze()


class Progress:
    """Prints how far the run is, at most every ``seconds``, for logs that show dots only when a line is full."""

    def __init__(self, config: pytest.Config, seconds: float = 15.0) -> None:
        self.config = config
        self.seconds = seconds
        self.start = self.last = time.monotonic()
        self.finished = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        self.finished += 1
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is None:
            return
        reporter.ensure_newline()
        reporter.write_line(f"{self.finished} tests done after {now - self.start:.0f} s; last: {report.nodeid}")
        reporter.flush()


def pytest_configure(config: pytest.Config) -> None:
    """Register the progress lines in the process that owns the output: not in an xdist worker, not on a terminal."""
    if not hasattr(config, "workerinput") and not sys.stdout.isatty():
        config.pluginmanager.register(Progress(config), "gngraph-progress")
