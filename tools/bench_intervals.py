"""How often predicted intervals hold, for fresh networks and for those that know their training samples by heart.

Digits with noise on them are learned in few epochs, and by heart in many. Changes are judged by samples that are withheld from
training, as they are, and for comparison by training samples. The network is then changed, one candidate at a time, and the actual
change of the mean loss is measured on test samples, whose own noise the interval counts too.

    tools/bench_intervals.py --seeds 3
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import Subset, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.manager import AnalysisManager
from gngraph.data import load_data
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.experiment import numbers
from tools.fig3 import coverage, held_samples, points_of

console = Console(width=120)
KINDS = ("prune", "split")


def noisy(noise: float) -> Any:
    """The digits with normal noise of a standard deviation added, the same at every call: about half to train on."""
    data, generator = load_data("digits"), torch.Generator().manual_seed(0)
    parts = [(data.preprocess(part.stored(range(len(part)))), part.labels) for part in (data.train, data.test)]
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    x = x + noise * torch.randn(x.shape, generator=generator)
    half = len(x) // 2
    return SimpleNamespace(train=TensorDataset(x[:half], y[:half]), test=TensorDataset(x[half:], y[half:]))


def network(width: int) -> nn.Module:
    """Three convolutions with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def judged(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """The problem as it is, and one whose judge and report samples are training samples that it takes for unseen."""
    yield "withheld", problem
    trained: Any = problem.train
    yield "trained on", replace(problem, unseen=Subset(trained, range(problem.withheld)))


def shares(graph: Graph, problem: Problem, candidates: int, unseen: int) -> dict[str, float]:
    """For each kind how many actual changes on test samples lie in their intervals."""
    scores = AnalysisManager(problem).get(GaussNewton(kinds=KINDS), graph)
    held = held_samples(problem, unseen)
    return {kind: coverage(points_of(graph, problem, "", kind, scores, candidates, held), "unseen") for kind in KINDS}


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", type=numbers, default="3,40", show_default=True, help="lengths of training")
@click.option("--width", default=16, show_default=True, help="channels of the first layer")
@click.option("--noise", default=1.2, show_default=True, help="standard deviation of what is added to the inputs")
@click.option("--candidates", default=80, show_default=True, help="candidates of each kind measured")
@click.option("--unseen", default=900, show_default=True, help="test samples that changes are measured on")
def main(seeds: int, epochs: tuple[int, ...], width: int, noise: float, candidates: int, unseen: int) -> None:
    """Print the shares of actual changes within 1.96 errors of the predicted ones, which should be .95."""
    torch.set_num_threads(1)
    data, found = noisy(noise), dict[tuple[int, str, str], list[float]]()
    accuracies: dict[int, list[float]] = {}
    for length in epochs:
        for seed in range(seeds):
            torch.manual_seed(seed)
            problem = Problem(data, device="cpu", seed=seed)
            graph = from_torch(network(width), data.train.tensors[0][:2])
            graph = Trainer(problem, TrainOptions(lr=0.05, batch_size=64)).train(graph, Stretch(length, "cosine")).graph
            accuracies.setdefault(length, []).append(evaluate(graph, problem, problem.train)[1] or 0.0)
            for by, own in judged(problem):
                for kind, share in shares(graph, own, candidates, unseen).items():
                    found.setdefault((length, by, kind), []).append(share)
            console.print(f"{length} epochs, seed {seed}: training accuracy {accuracies[length][-1]:.2f}", style="dim")
    table = Table("epochs", "training accuracy", "judged by samples", "kind", "in the interval", "least", "most")
    for (length, by, kind), measured in found.items():
        figures = (statistics.fmean(measured), min(measured), max(measured))
        accuracy = statistics.fmean(accuracies[length])
        table.add_row(str(length), f"{accuracy:.2f}", by, kind, *(f"{figure:.2f}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    main()
