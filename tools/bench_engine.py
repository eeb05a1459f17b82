"""Every bar of the Gauss-Newton engine in one table: what was measured, medians and ranges over seeds, beside the bar.

For each network and seed: train (a saved network is taken as it is), score every kind of candidate once, and measure

- singles: random candidates of each kind, predicted and actual change of the loss on the report split, all kinds together;
- intervals: how often the actual change on test samples lies in the predicted interval;
- sets: splits chosen together, as many chosen by the sum of their gains, and random ones of exactly each size;
- cross-fitting: what would be predicted on the samples that candidates were learned and chosen on;
- cost: seconds of scoring and judging in epochs of training on as many samples, and memory beside training's;

then, once, the selection of many candidates and, where they are installed (extra "bench"), curvlinops and gromo.

    tools/bench_engine.py --data cifar10.npz --out bars.csv    # full scale: for a GPU, or a night
    tools/bench_engine.py --data cifar10.npz --network "nets/vgg16_{seed}.gng" --network resnet20:0.25 --epochs 2 \\
        --samples 512,512,512 --unseen 512 --candidates 12 --counts 8 --cost-samples 256,128,128 --selection 2000,512,100
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.manager import AnalysisManager
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.second_look import LOOKS
from tools import bench_cost, bench_crossfit, bench_selection
from tools.bench_predictions import sets, singles
from tools.experiment import Experiment, experiment_options, numbers
from tools.fig3 import held_samples, points_of
from tools.measuring import trained, untrained, write_csv

console = Console(width=160)
KINDS = ("split", "new", "prune", "merge", "insert")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        looks: candidates that the analysis looks at twice (`GaussNewton.looks`), in timings too.
        unseen: test samples, for the intervals.
        candidates: single candidates of each kind.
        counts: sizes of sets.
        cost: learn, judge and report samples of the timings.
        selection: candidates, samples of either split, and choices of the selection.
        hidden: width of the perceptron for gromo.
    """

    looks: int
    unseen: int
    candidates: int
    counts: tuple[int, ...]
    cost: tuple[int, ...]
    selection: tuple[int, ...]
    hidden: int


@dataclass(frozen=True)
class Bar:
    """A range that a median should lie in."""

    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        if self.least > -math.inf:
            return f"{self.least:g} to {self.most:g}" if self.most < math.inf else f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most < math.inf else ""


BARS = {
    "singles: Pearson": Bar(least=0.98),
    "singles: Spearman": Bar(least=0.98),
    "singles: slope": Bar(0.9, 1.1),
    "intervals: share inside": Bar(least=0.93),  # about 95 %
    "sets: |predicted / actual - 1|": Bar(most=0.1),
    "sets: change of the loss by the joint rule": Bar(most=0.0),
    "sets: decrease by it less 1.5 x by the additive rule": Bar(least=0.0),
    "cost: score / epoch": Bar(most=4.0),
    "cost: judge / epoch": Bar(most=1.5),
    "cost: memory MB beyond 1.5 x training + 300": Bar(most=0.0),
    "selection: seconds": Bar(most=20.0),
    "selection: GB": Bar(most=2.0),
    "selection: as the plain rule": Bar(least=1.0),
    "curvlinops: times faster": Bar(least=50.0),
    "curvlinops: relative difference": Bar(most=1e-4),
    "gromo: score / its updates": Bar(most=1.0),
}
"""What is measured -> where its median should lie. What is not named here has no bar."""


@dataclass(frozen=True)
class Figure:
    """A figure of one seed.

    Attributes:
        what: name of the figure, of `BARS` where it has a bar.
        of: which kind, set or option it is of; empty for all together.
    """

    what: str
    of: str
    network: str
    seed: int
    value: float


def predictions(network: str, width: float, problem: Problem, epochs: int, sizes: Sizes) -> Iterator[Figure]:
    """Figures of singles, intervals, sets and cross-fitting, from one analysis and one without cross-fitting."""
    name, seed = Path(network).stem, problem.seed
    graph = trained(network, width, problem, epochs)
    options = GaussNewton(looks=sizes.looks, kinds=KINDS)
    scores = AnalysisManager(problem).get(options, graph)
    held = held_samples(problem, sizes.unseen)
    points = {kind: points_of(graph, problem, name, kind, scores, sizes.candidates, held) for kind in KINDS}
    together = [point for own in points.values() for point in own]
    for kind, own in (("", together), *points.items()):
        if not own:
            continue  # the network has no place for it
        row = singles(own)
        for what in ("Pearson", "Spearman", "slope"):
            # the bars are of all kinds together: one kind's changes may all be near zero
            yield Figure(
                f"singles{' of a kind' if kind else ''}: {what}", kind, name, seed, float(str(row[what.lower()]))
            )
        yield Figure("intervals: share inside", kind, name, seed, float(str(row["coverage"])))
    chosen = sets(graph, problem, scores, sizes.counts)
    for found in chosen:
        predicted, actual = float(str(found["together"])), float(str(found["actual"]))
        of = f"{found['rule']} set, {found['asked']} asked"
        what = "sets" if found["rule"] != "additive" else "sets of the additive rule"
        yield Figure(f"{what}: |predicted / actual - 1|", of, name, seed, abs(predicted / actual - 1))
        yield Figure("sets: splits", of, name, seed, float(str(found["splits"])))
    actual_of = {(row["asked"], row["rule"]): float(str(row["actual"])) for row in chosen}
    for count in sizes.counts:
        joint, additive = (actual_of.get((count, rule), math.nan) for rule in ("joint", "additive"))  # no set: missed
        of, more = f"{count} asked", 1.5 * additive - joint
        yield Figure("sets: change of the loss by the joint rule", of, name, seed, joint)
        yield Figure("sets: decrease by it less 1.5 x by the additive rule", of, name, seed, more)
    size = max(sizes.counts)
    for line in bench_crossfit.rows_of(
        graph, problem, name, options, scores, bench_crossfit.LEARNED, sizes.candidates, size
    ):
        of = f"set chosen on {line.chosen}" if line.chosen else f"{line.kind}, mean"
        for what in ("learn", "judge", "report", "actual"):
            if not math.isnan(value := getattr(line, what)):
                yield Figure(f"cross-fitting: {what}", of, name, seed, value)


def costs(network: str, width: float, problem: Problem, looks: int) -> Iterator[Figure]:
    """Figures of time and memory."""
    name, seed = Path(network).stem, problem.seed
    for met in bench_cost.timed(untrained(network, width, problem), problem, 1, looks):
        yield Figure("cost: score / epoch", "", name, seed, met.score)
        yield Figure("cost: judge / epoch", "", name, seed, met.judge)
    training, scoring = bench_cost.peaks(network, width, problem)
    yield Figure("cost: memory MB of training", "", name, seed, training)
    yield Figure("cost: memory MB of scoring", "", name, seed, scoring)
    yield Figure("cost: memory MB beyond 1.5 x training + 300", "", name, seed, scoring - (1.5 * training + 300))


def selected(sizes: Sizes, threads: int) -> list[bench_selection.Run]:
    """Selections of made-up candidates of a VGG-16, with one and with four curvature factors."""
    torch.set_num_threads(threads)
    candidates, samples, count = sizes.selection
    graph = bench_selection.network_of("vgg16", 0.5)
    return [
        run
        for factors in (1, 4)
        for run in bench_selection.runs(graph, candidates, (samples, samples), count, factors, 1.15, 256, 0.5)
    ]


def selections(sizes: Sizes, threads: int) -> Iterator[Figure]:
    """Figures of the selection, in a process of its own: its memory is what that process needed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(selected, sizes, threads).result()
    for run in found:
        of = f"R = {run.factors}, {run.choice}: {len(run.kinds)} of {sizes.selection[0]}"
        yield Figure("selection: seconds", of, "made-up", 0, run.seconds)
        yield Figure("selection: GB", of, "made-up", 0, run.peak)
        yield Figure("selection: as the plain rule", of, "made-up", 0, float(run.equal))


def libraries(network: str, width: float, problem: Problem, sizes: Sizes) -> Iterator[Figure]:
    """Figures beside other libraries, of those that are installed."""
    if importlib.util.find_spec("curvlinops"):
        met = bench_cost.products(network, width, problem, 4)
        yield Figure("curvlinops: times faster", "", Path(network).stem, problem.seed, met.times)
        yield Figure("curvlinops: relative difference", "", Path(network).stem, problem.seed, met.difference)
    if importlib.util.find_spec("gromo"):
        for theirs, ours in bench_cost.perceptrons(problem, sizes.hidden, 3):
            yield Figure("gromo: score / its updates", "", f"perceptron {sizes.hidden}", problem.seed, ours / theirs)


def show(figures: Sequence[Figure]) -> int:
    """Print a row a figure; returns how many medians lie outside of their bars."""
    table = Table("figure", "of", "network", "median (least to most)", "bar", "", title="the engine against its bars")
    missed = 0
    for what, of, network in dict.fromkeys((f.what, f.of, f.network) for f in figures):
        values = [f.value for f in figures if (f.what, f.of, f.network) == (what, of, network)]
        bar = BARS.get(what, Bar())
        median = statistics.median(values)
        met = bar.least <= median <= bar.most
        missed += not met
        numbers = f"{median:.4g} ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else f"{median:.4g}"
        table.add_row(what, of, network, numbers, str(bar), ("met" if met else "MISSED") if str(bar) else "")
    console.print(table)
    return missed


@click.command()
@experiment_options(download=False, epochs=6, seeds=3, samples="4096,4096,2048", device="auto")
@click.option("--network", "networks", multiple=True, default=("vgg16:0.5", "resnet20:1"), show_default=True,
              help="NAME:WIDTH of the zoo, or a saved network, '{seed}' in its name standing for the seed")  # fmt: skip
@click.option("--unseen", default=4096, show_default=True, help="test samples, for the intervals")
@click.option("--looks", default=LOOKS, show_default=True, help="candidates whose actual change the analysis looks at")
@click.option("--candidates", default=100, show_default=True, help="single candidates of each kind")
@click.option("--counts", type=numbers, default="8,16,32,64", show_default=True, help="sizes of sets of splits")
@click.option("--cost-samples", "cost", type=numbers, default="2048,1024,1024", show_default=True,
              help="learn, judge and report samples of the timings")  # fmt: skip
@click.option("--selection", type=numbers, default="20000,2048,1000", show_default=True,
              help="candidates, samples and choices")  # fmt: skip
@click.option("--hidden", default=256, show_default=True, help="width of the perceptron for gromo")
@click.option("--out", type=click.Path(path_type=Path), help="write every figure as CSV")
def main(experiment: Experiment, out: Path | None, **sizes: Any) -> None:
    """Print the table, and how many medians miss their bars."""
    asked = Sizes(**sizes)
    named = {text: bench_cost.named(text) for text in experiment.networks}
    figures: list[Figure] = []

    def keep(found: Iterable[Figure]) -> None:
        figures.extend(found)
        if out is not None:
            write_csv(figures, out)

    for text, problem in experiment.problems():
        network, width = named[text]
        console.print(f"{network}, seed {problem.seed}", style="dim")
        keep(predictions(network, width, problem, experiment.epochs, asked))
        keep(costs(network, width, experiment.problem(problem.seed, asked.cost), asked.looks))
    keep(libraries(*named[experiment.networks[0]], experiment.problem(0, asked.cost), asked))
    keep(selections(asked, experiment.threads))
    console.print(f"{show(figures)} medians miss their bars")


if __name__ == "__main__":
    main()
