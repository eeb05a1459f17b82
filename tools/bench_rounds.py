"""Memory and folder of a run of many rounds: they may grow by what is recorded, and by nothing else.

A small network on some digits grows to twice its size in 200 rounds, without training between them. After every round the memory
that the process holds and the bytes of the run's files are looked at. Told is what they grow by a round over the last three
quarters of the run, where all that is held once is held already.

    tools/bench_rounds.py --rounds 200
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.cost import cost
from gngraph.growth.jobs import JOBS
from gngraph.growth.loop import grow_by
from gngraph.running.problem import Problem
from tests.problems import digits, seed_graph

console = Console(width=120)

FILES = ("history.jsonl", "channels.jsonl", "model.gng", "checkpoints")


def resident() -> int:
    """Bytes that this process holds in memory."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


def tensors() -> int:
    """Tensors that are alive."""
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class Watcher:
    """Looks at the process and at the folder of its run after every round.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[dict[str, int]] = []

    def round_finished(self, record: dict[str, Any]) -> None:
        """Look."""
        gc.collect()
        files = {name: self.folder / name for name in FILES}
        own = {
            name: sum(f.stat().st_size for f in (path, *path.rglob("*")) if f.is_file()) for name, path in files.items()
        }
        self.seen.append({"memory": resident(), "tensors": tensors()} | own)


def a_round(values: list[int]) -> float:
    """What values grow by a round: the slope of the line nearest to them."""
    places = torch.arange(len(values), dtype=torch.float64)
    y, x = torch.tensor(values, dtype=torch.float64), places - places.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


@click.command()
@click.option("--rounds", default=200, show_default=True)
@click.option("--network", default="mlp", show_default=True, help="of the zoo")
@click.option("--width", default=0.1, show_default=True, help="width multiplier")
@click.option("--times", default=2.0, show_default=True, help="as large as the seed at the end, in parameters")
def main(rounds: int, network: str, width: float, times: float) -> None:
    """Print what a run grows by."""
    torch.set_num_threads(1)
    graph, problem, job = (
        seed_graph(network, width),
        Problem(digits(120, 24), device="cpu", batch_size=64),
        JOBS["grow"],
    )
    with tempfile.TemporaryDirectory() as root:
        watcher = Watcher(Path(root) / "run")
        options: dict[str, Any] = {"rounds": rounds, "epochs": 0, "final_epochs": 1, "perturb": 0.0, "depth": "keep"}
        given = job.options.of(options, max_params=int(times * cost(graph).params))
        grow_by(job.task(given, graph), graph, problem, out=watcher.folder, observer=watcher)
    table = Table("", "first round", "last round", f"grows a round, over the last {len(watcher.seen) * 3 // 4}")
    for name in watcher.seen[0]:
        values = [one[name] for one in watcher.seen]
        table.add_row(name, f"{values[0]:,}", f"{values[-1]:,}", f"{a_round(values[len(values) // 4 :]):,.0f}")
    console.print(table)
    console.print("all in bytes but for tensors, which are counted")


if __name__ == "__main__":
    main()
