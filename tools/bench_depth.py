"""How deep a network is best by training it to the end in every depth, beside what short trials of the same networks would choose.

A seed of --start of the budget is trained as growth trains one before its first rewrite, and its layers are ranked as growth ranks
them (`gngraph.search.depth`). Networks without the first k of them, at the widths that trials have at the budget, are trained for
--epochs from scratch, and for short trials: of the length that growth gives them (x1), and of others (--lengths). The first
table has the loss of every trial and the accuracy at the end; the second what each length and margin would choose, and how many
points of accuracy that is below the best depth: the evidence for `LENGTH`, `MARGIN` and `PARTS`. With `--order missed` layers go
as they are missed, though a resolution may lose all of its own: the evidence for `kinds_kept`. A finished depth is a line of
OUT/depths.jsonl and is not trained again.

    tools/bench_depth.py --data cifar10.npz --size 16 --train 10000 --network vgg16 --budget 100k,1.09M --epochs 60 --out depths/
    tools/bench_depth.py --data cifar10 --network resnet56 --budget width=0.5 --epochs 200 --device cuda --out depths/
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
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
from gngraph.data import Data, Download, load_data
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.layer_removal import RemovableLayer
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.search.depth import (
    MARGIN,
    PARTS,
    TrialTraining,
    as_good,
    at_budget,
    kinds_kept,
    least_missed,
    shallower,
    trial_length,
    without,
)
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer, batch_of
from tools.bench_growth import budget_named, shrunken
from tools.growth_designs import FAMILY, designed

console = Console(width=150)

ORDERS: Mapping[str, Callable[[Graph, Sequence[RemovableLayer]], Sequence[RemovableLayer]]] = {
    "growth": kinds_kept,
    "missed": lambda graph, order: order,
}
"""Orders in which layers go: growth's own, and that in which they are missed, though a resolution may lose all of its layers."""

MARGINS = (0.0, 0.01, MARGIN, 0.1)
"""Shares of the loss by which a shallower network must be better than a deeper one."""


@dataclass(frozen=True)
class Depths:
    """Every depth of one network.

    Attributes:
        network: of the zoo.
        data: the data set.
        budget: of every depth.
        start: size of the seed that ranks the layers, as a share of the budget.
        ranking: epochs that it is trained.
        epochs, lr: of the training to the end, along a cosine.
        lengths: of the trials, in units of what growth gives them in a run of `epochs`.
        samples: of the judge split.
        order: in which the layers go, a name of `ORDERS`.
        device: what to compute on.
    """

    network: str
    data: Data
    budget: Budget
    start: float
    ranking: int
    epochs: int
    lr: float | None
    lengths: tuple[float, ...]
    samples: int
    order: str
    device: str

    def problem(self, seed: int) -> Problem:
        """Data and seed."""
        count = self.samples
        return Problem(self.data, device=self.device, seed=seed, learn=count, judge=count, report=count)

    def ranked(self, seed: int) -> tuple[Graph, list[str]]:
        """The seed, trained a little, and the values at which its layers end, that first which is missed least."""
        problem = self.problem(seed)
        small = Budget(*(side and int(side * self.start) for side in (self.budget.max_params, self.budget.max_flops)))
        graph = restarted(designed(FAMILY, self.network, self.data, small), mixed(seed, 1))
        graph = Trainer(problem, TrainOptions(lr=self.lr)).train(graph, Stretch(self.ranking)).graph
        order = ORDERS[self.order](graph, least_missed(graph, AnalysisManager(problem), self.budget))
        values = [layer.value for layer in order]
        return graph, values[: len(shallower(graph, values, AnalysisManager(problem))) - 1]

    def line(self, graph: Graph, values: Sequence[str], seed: int) -> dict[str, Any]:
        """What the network without some layers comes to."""
        problem, options = self.problem(seed), TrainOptions(lr=self.lr)
        made = at_budget(without(graph, values), self.budget, AnalysisManager(problem))
        own = trial_length(self.epochs, len(problem.train), batch_of(options, problem))
        trials = {f"{n:g}": TrialTraining(problem, options, round(n * own)).loss(made) for n in self.lengths}
        ended = Trainer(problem, options).train(restarted(made, mixed(seed, 1)), Stretch(self.epochs, "cosine")).graph
        accuracy = evaluate(ended, problem, problem.test)[1]
        if accuracy is None:
            raise click.UsageError(f"'{self.data.name}' has no classes to be right about: name a data set that has")
        found = {"flops": cost(made).flops, "trials": trials, "accuracy": accuracy}
        return {"of": self.text, "seed": seed, "removed": len(values)} | found

    @property
    def text(self) -> str:
        """What a line was made by, so that a folder may hold lines of several tables."""
        shape, count = self.data.input_shape, len(self.data.train)
        return repr((
            self.network, self.data.name, shape, count, self.budget, self.start, self.ranking, self.epochs, self.lr, self.lengths,
            self.samples, self.order,
        ))  # fmt: skip


def counts(most: int) -> list[int]:
    """The numbers of layers that are tried: none, all, and those between that growth tells apart.

    >>> counts(12), counts(3)
    ([0, 2, 4, 6, 8, 10, 12], [0, 1, 2, 3])
    """
    return [*range(0, most, max(1, -(-most // PARTS))), most]


def chosen(lines: Sequence[Mapping[str, Any]], length: str, margin: float) -> Mapping[str, Any]:
    """The depth that trials of a length choose among those of one seed: of those about as good the deepest."""
    losses = {line["removed"]: line["trials"][length] for line in lines}
    least = min(as_good(losses, margin))
    return next(line for line in lines if line["removed"] == least)


def missed(lines: Sequence[Mapping[str, Any]], length: str, margin: float) -> tuple[list[int], list[float]]:
    """For each seed how many layers trials choose to remove, and the accuracy that the best depth has beyond theirs."""
    removed, below = [], []
    for seed in sorted({line["seed"] for line in lines}):
        own = [line for line in lines if line["seed"] == seed]
        choice = chosen(own, length, margin)
        removed.append(choice["removed"])
        below.append(max(line["accuracy"] for line in own) - choice["accuracy"])
    return removed, below


def tables(lines: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Every depth, and every choice."""
    lengths = list(lines[0]["trials"])
    depths = Table(
        "layers removed", "MFLOPs", *(f"loss, trial x{n}" for n in lengths), "accuracy", title="medians of the seeds"
    )
    for removed in sorted({line["removed"] for line in lines}):
        own = [line for line in lines if line["removed"] == removed]
        accuracies = [line["accuracy"] for line in own]
        depths.add_row(
            str(removed), f"{median(line['flops'] for line in own) / 1e6:.3f}",
            *(f"{median(line['trials'][n] for line in own):.3f}" for n in lengths),
            f"{median(accuracies):.4f} ({min(accuracies):.4f} to {max(accuracies):.4f})",
        )  # fmt: skip
    choices = Table("trial", "margin", "layers removed", "points below the best depth: median", "of each seed")
    for n in lengths:
        for margin in MARGINS:
            removed, below = missed(lines, n, margin)
            points = [100 * value for value in below]
            choices.add_row(
                f"x{n}", f"{margin:g}", " ".join(map(str, removed)), f"{median(points):.2f}",
                " ".join(f"{value:.2f}" for value in points),
            )  # fmt: skip
    return [depths, choices]


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", required=True, help="data set by name or path")
@click.option("--download", is_flag=True, help="fetch the data set if it is missing")
@click.option("--size", default=0, help="average images down to this side")
@click.option("--train", default=0, help="training samples; default: all")
@click.option("--network", default="vgg16", show_default=True, help="family of the zoo")
@click.option(
    "--budget", default="100k,1.09M", show_default=True, help="params, params,FLOPs, or width=W of the family"
)
@click.option("--start", default=0.05, show_default=True, help="cost of the seed as a share of the budget")
@click.option("--ranking", default=0, help="epochs of the seed; default: an eighth of --epochs")
@click.option("--epochs", default=60, show_default=True)
@click.option("--lr", type=float, help="learning rate; default: the library's")
@click.option("--lengths", default="0.5,1,2", show_default=True, help="of trials, in units of growth's own")
@click.option("--samples", default=1024, show_default=True, help="of the judge split")
@click.option(
    "--order", type=click.Choice(list(ORDERS)), default="growth", show_default=True, help="in which layers go"
)
@click.option("--seeds", default=1, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the finished depths")
def main(
    data: str, download: bool, size: int, train: int, network: str, budget: str, start: float, ranking: int, epochs: int,
    lr: float | None, lengths: str, samples: int, order: str, seeds: int, device: str, threads: int, out: Path,
) -> None:  # fmt: skip
    """Train every depth, and print the tables."""
    torch.set_num_threads(threads)
    source = shrunken(load_data(data, download=Download.IF_MISSING if download else Download.NEVER), size, train)
    limit = budget_named(budget, network, source)
    asked = tuple(float(length) for length in lengths.split(","))
    ranking = ranking or max(1, epochs // 8)
    depths = Depths(network, source, limit, start, ranking, epochs, lr, asked, samples, order, device)
    out.mkdir(parents=True, exist_ok=True)
    store = out / "depths.jsonl"
    kept = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()] if store.exists() else []
    lines = [line for line in kept if line["of"] == depths.text]
    for seed in range(seeds):
        graph, values = depths.ranked(seed)
        for count in counts(len(values)):
            if any((line["seed"], line["removed"]) == (seed, count) for line in lines):
                continue
            lines.append(depths.line(graph, values[:count], seed))
            with open(store, "a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            console.print(f"seed {seed}, {count} removed: {lines[-1]['accuracy']:.4f}", style="dim")
    for table in tables([line for line in lines if line["seed"] < seeds]):
        console.print(table)


if __name__ == "__main__":
    main()
