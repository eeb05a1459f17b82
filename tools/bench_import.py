#!/usr/bin/env python
"""How long an import takes beside what it took in another tree of gngraph, model by model of the matrix, beside its bar.

Two processes, one a tree, import each model in turns, since machines are noisy; the shortest runs are compared, in seconds of
the CPU. The base that the bar is about is the last commit before imports proved that they train:

    git worktree add --detach ../base 5641bac
    tools/bench_import.py ../base --repeats 3
    git worktree remove ../base
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
BAR = 2.5
"""Largest median of what an import takes, as a multiple of what it takes in the base."""
MODELS = (
    *(
        "resnet18",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "shufflenet_v2_x0_5",
        "googlenet",
    ),
    *(
        "squeezenet1_1",
        "mnasnet0_5",
        "regnet_y_400mf",
        "vgg11_bn",
        "resnext50_32x4d",
        "convnext_tiny",
        "swin_t",
        "vit_b_32",
    ),
)
_WORKER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from gngraph.importing.from_torch import from_torch
from tests.coverage_models import Model
torch.set_num_threads(1)
name, network, example = "", None, None
for line in sys.stdin:
    if line.strip() != name:
        name = line.strip()
        network, example = Model("classification", name).build()
    start = time.process_time()
    from_torch(network, example)
    print(time.process_time() - start, flush=True)
"""


class Worker:
    """A process that imports models as a tree of gngraph does it.

    Args:
        tree: its root.
    """

    def __init__(self, tree: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, model: str) -> float:
        """Seconds of the CPU for one import.

        Raises:
            SystemExit: the import failed.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        print(model, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the import of {model} failed")
        return float(line)


@click.command(help=__doc__)
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--models", default=",".join(MODELS), help="Names that torchvision has for models of images.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Imports of each in each tree.")
def main(base: Path, models: str, repeats: int) -> None:
    """Measure, print, and exit with 1 where the bar is missed."""
    workers = Worker(base.resolve()), Worker(ROOT)
    shares = []
    for model in models.split(","):
        runs = [[worker.seconds(model) for worker in workers] for _ in range(repeats)]
        before, now = (min(times) for times in zip(*runs, strict=True))
        shares.append(now / before)
        click.echo(f"{model}: {now:.2f} s, {before:.2f} s in the base, {shares[-1]:.2f} times")
    median = statistics.median(shares)
    click.echo(f"median of {len(shares)}: {median:.2f} times, at most {BAR}; the largest {max(shares):.2f}")
    sys.exit(1 if median > BAR else 0)


if __name__ == "__main__":
    main()
