"""What the widths of a network's layers are worth by training it in many shapes, beside what gngraph measures in one of them.

Random shapes around uniform widths, all as large as one budget of FLOPs allows, are trained from scratch, a seed each. The worths
w in accuracy = constant - sum of w / width^POWER, none below 0, are fitted to them by least squares. Beside them stand, from the
uniform network trained for as long: what is measured by removing a quarter of the channels together
(`gngraph.search.worth`), and n^2 times the median loss of removing one, which is what a channel's removal value would say. All
worths are in units of their mean. A finished shape is a line of OUT/shapes.jsonl and is not trained again.

    tools/bench_worth.py --data cifar10.npz --size 16 --train 10000 --network vgg11 --flops 900k --shapes 48 --out shapes/
    tools/bench_worth.py --data cifar10 --network resnet20 --flops 20M --epochs 60 --shapes 200 --device cuda --out shapes/
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LinearRegression

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import Data, Download, load_data
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.options.values import parse_count
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.designs import widths_within
from gngraph.search.widths import POWER
from gngraph.search.worth import measured_worths
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.bench_growth import shrunken
from tools.growth_designs import SHAPES, family, to_widths

console = Console(width=150)


@dataclass(frozen=True)
class Trial:
    """How every shape is trained.

    Attributes:
        network: of the zoo.
        data: the data set.
        budget: FLOPs of every shape.
        spread: standard deviation of the logarithm of a width.
        epochs, lr: of training, along a cosine.
        samples: of each split of the analysis.
        device: what to compute on.
    """

    network: str
    data: Data
    budget: Budget
    spread: float
    epochs: int
    lr: float | None
    samples: int
    device: str

    def widths(self, seed: int) -> dict[str, int]:
        """Widths of a random shape."""
        base, draw = family(self.network, self.data, 1.0), random.Random(seed)
        factors = {space.name: math.exp(draw.gauss(0.0, self.spread)) for space in ChannelSpaces.of(base).free}
        model = CostModel(base, ChannelSpaces.of(base))

        def at(width: float) -> dict[str, int]:
            return {**model.widths, **{name: max(2, round(width * factor)) for name, factor in factors.items()}}

        low, high = 0.0, float(max(model.widths.values()) * 4)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.budget.allows(model.of(at(middle))) else (low, middle)
        return {name: at(low)[name] for name in factors}

    def problem(self, seed: int) -> Problem:
        """Data and seed."""
        count = self.samples
        return Problem(self.data, device=self.device, seed=seed, learn=count, judge=count, report=count)

    def trained(self, widths: Mapping[str, int], seed: int) -> Graph:
        """The network of these widths, trained from scratch."""
        graph = restarted(to_widths(family(self.network, self.data, 1.0), widths), seed)
        problem = self.problem(seed)
        return Trainer(problem, TrainOptions(lr=self.lr)).train(graph, Stretch(self.epochs, "cosine")).graph

    def line(self, seed: int) -> dict[str, object]:
        """A random shape, and what it reaches."""
        widths, problem = self.widths(seed), self.problem(seed)
        accuracy = evaluate(self.trained(widths, seed), problem, problem.test)[1]
        if accuracy is None:
            raise click.UsageError(f"'{self.data.name}' has no classes to be right about: name a data set that has")
        return {"seed": seed, "widths": widths, "accuracy": accuracy}

    def measured(self, seed: int) -> tuple[dict[str, float], dict[str, float]]:
        """What the analysis says of the uniform network: by a quarter removed, and by the median channel."""
        base = family(self.network, self.data, 1.0)
        graph = self.trained(widths_within(base, SHAPES["uniform"], self.budget), seed)
        analyses = AnalysisManager(self.problem(seed))
        scores = analyses.get(GaussNewton(kinds=("prune",)), graph)
        losses: dict[str, list[float]] = {}
        for candidate in scores.candidates:
            losses.setdefault(candidate.morphism.space, []).append(max(0.0, -candidate.gain))
        single = {name: median(own) * len(own) ** 2 for name, own in losses.items()}
        return measured_worths(graph, analyses, scores), single


def fitted(lines: list[dict[str, object]]) -> tuple[dict[str, float], float]:
    """Worths that explain the accuracies, and the standard deviation of what they do not explain."""
    widths = [line["widths"] for line in lines]
    assert all(isinstance(own, dict) for own in widths)
    names = list(widths[0])  # type: ignore[call-overload]
    x = np.array([[-(float(own[name]) ** -POWER) for name in names] for own in widths])  # type: ignore[index]
    y = np.array([float(str(line["accuracy"])) for line in lines])
    model = LinearRegression(positive=True).fit(x, y)
    return dict(zip(names, model.coef_.tolist(), strict=True)), float(np.std(y - model.predict(x)))


def relative(worths: Mapping[str, float]) -> dict[str, float]:
    """Worths in units of their mean."""
    mean = sum(worths.values()) / len(worths) or 1.0
    return {name: worth / mean for name, worth in worths.items()}


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", required=True, help="data set by name or path")
@click.option("--download", is_flag=True, help="fetch the data set if it is missing")
@click.option("--size", default=0, help="average images down to this side")
@click.option("--train", default=0, help="training samples; default: all")
@click.option("--network", default="vgg11", show_default=True, help="family of the zoo, or torchvision:NAME")
@click.option("--flops", default="900k", show_default=True, help="of every shape")
@click.option("--shapes", default=48, show_default=True, help="how many are trained; several for each layer")
@click.option("--spread", default=0.4, show_default=True, help="standard deviation of the logarithm of a width")
@click.option("--measured", default=3, show_default=True, help="uniform networks that are measured")
@click.option("--epochs", default=30, show_default=True)
@click.option("--lr", type=float, help="learning rate; default: the library's")
@click.option("--samples", default=1024, show_default=True, help="of each split of the analysis")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the finished shapes")
def main(
    data: str, download: bool, size: int, train: int, network: str, flops: str, shapes: int, spread: float, measured: int,
    epochs: int, lr: float | None, samples: int, device: str, threads: int, out: Path,
) -> None:  # fmt: skip
    """Train the shapes, and print the worths."""
    torch.set_num_threads(threads)
    source = shrunken(load_data(data, download=Download.IF_MISSING if download else Download.NEVER), size, train)
    trial = Trial(network, source, Budget(max_flops=parse_count(flops)), spread, epochs, lr, samples, device)
    out.mkdir(parents=True, exist_ok=True)
    store = out / "shapes.jsonl"
    lines = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()] if store.exists() else []
    for seed in range(len(lines), shapes):
        lines.append(trial.line(seed))
        with open(store, "a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        console.print(
            f"shape {seed}: {' '.join(map(str, lines[-1]['widths'].values()))}: {lines[-1]['accuracy']:.4f}",
            style="dim",
        )
    truth, rest = fitted(lines)
    found = [trial.measured(seed) for seed in range(measured)]
    columns = {"by training": truth}
    for i, kind in enumerate(("a quarter removed", "n^2 x median removal")):
        own = [relative(pair[i]) for pair in found]
        columns[kind] = {name: median(each.get(name, 0.0) for each in own) for name in truth}
    shown = Table(
        "layer", *columns, title=f"worth of a width, in units of the mean; {len(lines)} shapes, {epochs} epochs"
    )
    for name in truth:
        shown.add_row(name, *(f"{relative(column)[name]:.2f}" for column in columns.values()))
    agreement = [
        np.corrcoef(list(truth.values()), [column[name] for name in truth])[0, 1] for column in columns.values()
    ]
    shown.add_row("correlation with training", *(f"{value:.2f}" for value in agreement))
    console.print(shown)
    console.print(
        f"accuracies vary by {np.std([line['accuracy'] for line in lines]):.4f}, of which {rest:.4f} is not explained"
    )


if __name__ == "__main__":
    main()
