#!/usr/bin/env python
"""How long short commands take to start, as a share of the seconds of `import torch`, beside their bars.

Every command runs in a process of its own, in turns, since machines are noisy; the medians are compared.

    tools/bench_startup.py --repeats 9
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
TORCH = ("-c", "import torch")
GNGRAPH = ("-m", "gngraph")


@dataclass(frozen=True)
class Bar:
    """A command that must start in time.

    Attributes:
        words: arguments of Python.
        statuses: exit statuses of a run that did what it is measured for.
        most: largest share of the seconds of `import torch`.
    """

    words: Sequence[str]
    statuses: tuple[int, ...]
    most: float


BARS = {
    "gngraph --help": Bar((*GNGRAPH, "--help"), (0,), 0.1),
    "gngraph inspect absent.gng": Bar((*GNGRAPH, "inspect", "absent.gng"), (1,), 0.1),
    "gngraph diff a.gng absent.gng": Bar((*GNGRAPH, "diff", "a.gng", "absent.gng"), (2,), 0.1),
    "gngraph diff a.gng b.gng": Bar((*GNGRAPH, "diff", "a.gng", "b.gng"), (1,), 1.3),
    "gngraph diff resnet50.gng split.gng": Bar((*GNGRAPH, "diff", "resnet50.gng", "split.gng"), (1,), 1.5),
}
"""Commands, as they are shown, in a folder that holds two archives of a small network, and two of a ResNet-50."""


def seconds(words: Sequence[str], folder: Path, statuses: Sequence[int]) -> float:
    """Seconds of one run of Python with `words` in `folder`.

    Raises:
        SystemExit: it ended with another status than it should.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode not in statuses:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return taken


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True, help="Runs of each command.")
def main(repeats: int) -> None:
    """Measure, print, and exit with 1 where a bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for archive, width in (("a.gng", ".25"), ("b.gng", ".3")):
            seconds((*GNGRAPH, "seed", "resnet20", "--width", width, "-o", archive), folder, (0,))
        shape = ("--input-shape", "3x64x64")
        seconds((*GNGRAPH, "seed", "torchvision:resnet50", *shape, "-o", "resnet50.gng"), folder, (0,))
        seconds((*GNGRAPH, "apply", "split-channels{count=40}", "resnet50.gng", "-o", "split.gng"), folder, (0,))
        taken: dict[str, list[float]] = {"": [], **{shown: [] for shown in BARS}}
        for _ in range(repeats):
            taken[""].append(seconds(TORCH, folder, (0,)))
            for shown, bar in BARS.items():
                taken[shown].append(seconds(bar.words, folder, bar.statuses))
    torch = statistics.median(taken.pop(""))
    click.echo(f"import torch: {torch:.2f} s, the median of {repeats}")
    missed = False
    for shown, runs in taken.items():
        share = statistics.median(runs) / torch
        missed = missed or share > BARS[shown].most
        click.echo(f"{shown}: {share:.3f} of that, at most {BARS[shown].most}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
