"""What the search for a depth costs: its seconds as a multiple of those that the seed was trained, and how often it lowers a graph.

A ResNet is trained for --epochs, and its depth is searched in a run of as many, at a budget of --larger times its cost. Both are
timed in one run, in seconds of the processor, which other work on the machine hardly lengthens. A graph that is lowered twice would
be one that two places run each for itself: the bar is one lowering for each graph.

    tools/bench_search_cost.py --network resnet56 --width 0.25 --epochs 2
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import load_data
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.problem import Problem
from gngraph.search.depth import Found, searched
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.measuring import untrained

console = Console(width=150)

BAR = 8.0
"""Seconds of the search as a multiple of those of two epochs, at most, for a ResNet-56 of width .25 on digits."""


@dataclass(frozen=True)
class Searched:
    """What a search took.

    Attributes:
        training, search: seconds of the processor.
        lowerings: graphs that were lowered, parts of networks among them.
        distinct: those of them that differ in nodes, outputs or weights.
        found: the depth.
    """

    training: float
    search: float
    lowerings: int
    distinct: int
    found: Found

    @property
    def ratio(self) -> float:
        """Seconds of the search for each of the training."""
        return self.search / self.training


def measured(graph: Graph, problem: Problem, epochs: int, larger: float, repeats: int) -> Searched:
    """Train a network and search its depth.

    Args:
        graph: with new weights.
        problem: to train on.
        epochs: of the training, and of the run that the search is for.
        larger: the budget, as a multiple of the network's cost.
        repeats: trainings, of which the median counts.
    """
    trainer, options, times = Trainer(problem, TrainOptions()), TrainOptions(), list[float]()
    for _ in range(repeats):
        started = time.process_time()
        trained = trainer.train(graph, Stretch(epochs)).graph
        times.append(time.process_time() - started)
    seed, size = trained, cost(trained)
    budget = Budget(int(larger * size.params), int(larger * size.flops))
    with lowered() as computed:
        started = time.process_time()
        found = searched(seed, AnalysisManager(problem), budget, options, epochs)
        search = time.process_time() - started
    return Searched(median(times), search, len(computed), len(set(computed)), found)


@contextmanager
def lowered() -> Iterator[list[Hashable]]:
    """What the graphs that are lowered inside compute, when they are: training changes the weights of its own afterwards."""
    home: Any = importlib.import_module("gngraph.lowering.to_torch")
    computed: list[Hashable] = []

    class Counting(home._Emitter):  # type: ignore[misc]
        def __init__(self, graph: Graph) -> None:
            computed.append(content(graph))
            super().__init__(graph)

    before, home._Emitter = home._Emitter, Counting
    try:
        yield computed
    finally:
        home._Emitter = before


def content(graph: Graph) -> Hashable:
    """What tells graphs apart: nodes, what they return, and weights; statistics are measured, and do not count."""
    weights = ((n, p.data.numpy(force=True).tobytes()) for n, p in graph.params.items() if p.kind == "parameter")
    return tuple(graph.nodes), str(graph.output), tuple(weights)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", default="digits", show_default=True, help="data set by name or path")
@click.option("--network", default="resnet56", show_default=True, help="family of the zoo")
@click.option("--width", default=0.25, show_default=True, help="multiple of the family's channels")
@click.option("--epochs", default=2, show_default=True)
@click.option("--larger", default=2.0, show_default=True, help="budget as a multiple of the network's cost")
@click.option("--repeats", default=3, show_default=True, help="trainings that are timed")
@click.option("--samples", default=2048, show_default=True, help="of each split")
@click.option("--threads", default=1, show_default=True, help="of the CPU")
def main(
    data: str, network: str, width: float, epochs: int, larger: float, repeats: int, samples: int, threads: int
) -> None:
    """Measure, and print the row."""
    torch.set_num_threads(threads)
    problem = Problem(load_data(data), device="cpu", learn=samples, judge=samples, report=samples)
    row = measured(untrained(network, width, problem), problem, epochs, larger, repeats)
    table = Table(
        "training s", "search s", f"ratio (bar {BAR:g})", "lowerings", "distinct graphs (bar)", "layers removed"
    )
    table.add_row(
        f"{row.training:.2f}", f"{row.search:.2f}", f"{row.ratio:.2f}", str(row.lowerings), str(row.distinct),
        str(len(row.found.removed)),
    )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
