"""Cross-fitting: how far a score lies on the samples that it was learned on, and what choosing by such scores costs.

The analysis learns candidates on one split, judges and selects on a second, reports on a third. For each network and seed:

- singles: the mean over random candidates of a kind of the change predicted on the learn samples, on the judge samples and on
  the report samples, beside the actual change on the report samples;
- sets: channels to split or add, chosen together on the judge samples (cross-fitted) and on the learn samples themselves (not),
  with the change predicted on the samples they were chosen on and on the report samples, and the actual one on the latter.

    tools/bench_crossfit.py --data cifar10.npz --network vgg11 --network resnet20 --width 0.25 --epochs 6 --seeds 3
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.data.splits import Splits
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.selection import select
from tools.experiment import Experiment, experiment_options
from tools.measuring import Samples, apply, changes, sample, write_csv

console = Console(width=180)
LEARNED = ("split", "new", "insert")
"""Kinds of candidate that are learned by descent of the loss's model."""


class Uncrossed(Problem):
    """A problem whose judge split is its learn split, for an analysis that judges candidates where it learned them."""

    @classmethod
    def of(cls, problem: Problem) -> Uncrossed:
        """The same problem otherwise."""
        return cls(**{field.name: getattr(problem, field.name) for field in fields(problem)})

    @cached_property
    def splits(self) -> Splits:
        """The learn and the report split of the problem, the former twice."""
        drawn = super().splits
        return Splits(drawn.learn, drawn.learn, drawn.report)


@dataclass(frozen=True)
class Row:
    """Changes of the mean loss, of single candidates (their mean) or of a set.

    Attributes:
        kind: of the single candidates; "set" for a chosen set of them.
        chosen: what a set was chosen on, "judge" or "learn"; empty for single candidates.
        count: how many candidates.
        learn, judge, report: the change predicted on each split; nan where the analysis did not look.
        actual: the actual change on the report split.
    """

    network: str
    seed: int
    kind: str
    chosen: str
    count: int
    learn: float
    judge: float
    report: float
    actual: float


def rows_of(
    graph: Graph,
    problem: Problem,
    network: str,
    options: GaussNewton,
    crossed: Scores,
    kinds: Sequence[str],
    count: int,
    size: int,
) -> Iterator[Row]:
    """For each kind `count` single candidates, and a set of at most `size` chosen on either split.

    Args:
        graph: a trained network.
        problem: with the samples of all three splits.
        network: its name in the rows.
        options: the analysis, which learns the same in either case.
        crossed: what it found under `problem`.
        kinds: kinds of candidate, of those that it scores.
        count: of single candidates, of each kind.
        size: of a chosen set, at most.
    """
    uncrossed: Scores = AnalysisManager(Uncrossed.of(problem)).get(options, graph)
    held = {"report": Samples(problem, problem.splits.report)}
    columns = [m.changes().tolist() for m in (uncrossed.judge, crossed.judge, crossed.report)]
    for kind in kinds:
        own = [i for i, candidate in enumerate(crossed.candidates) if candidate.morphism.kind == kind]
        drawn = sample(problem, own, count)
        if not drawn:
            continue
        others = (apply(graph, [crossed.candidates[i].morphism]) for i in drawn)
        actual = statistics.fmean(found["report"].mean for found in changes(graph, others, held))
        learn, judge, report = (statistics.fmean(column[i] for i in drawn) for column in columns)
        yield Row(network, problem.seed, kind, "", len(drawn), learn, judge, report, actual)
    model = CostModel(graph, ChannelSpaces.of(graph))
    widening = [
        kind for kind in kinds if kind != "insert"
    ]  # layers hold at the widths as they are, and not with any other
    for name, scores in (("judge", crossed), ("learn", uncrossed)):
        chosen = select(scores, model, count=size, kinds=widening)
        if not chosen.chosen:
            continue
        (found,) = changes(graph, [apply(graph, chosen.morphisms(scores))], held)
        on = {"judge": math.nan, "learn": math.nan, name: chosen.predicted}
        yield Row(network, problem.seed, "set", name, len(chosen.chosen), on["learn"], on["judge"],
                  chosen.predicted_report, found["report"].mean)  # fmt: skip


def show(rows: Sequence[Row]) -> None:
    """Print medians and ranges over the seeds."""
    table = Table(
        "network", "candidates", "number", "predicted: learn samples", "judge samples", "report samples",
        "actual: report samples", title="change of the loss: median over seeds (least, most)",
    )  # fmt: skip
    for network, kind, chosen in dict.fromkeys((row.network, row.kind, row.chosen) for row in rows):
        own = [row for row in rows if (row.network, row.kind, row.chosen) == (network, kind, chosen)]
        what = f"set chosen on {chosen} samples" if chosen else f"{kind}, mean of single ones"
        number = statistics.median(row.count for row in own)
        figures = [spread([getattr(row, name) for row in own]) for name in ("learn", "judge", "report", "actual")]
        table.add_row(Path(network).stem, what, f"{number:g}", *figures)
    console.print(table)


def spread(values: Sequence[float]) -> str:
    """Median, least and most, of changes of a loss; a dash where there are none."""
    if any(math.isnan(value) for value in values):
        return "-"
    return f"{statistics.median(values):+.5f} ({min(values):+.5f}, {max(values):+.5f})"


@click.command()
@experiment_options(
    networks=("vgg11", "resnet20"), width=0.25, epochs=6, seeds=3, samples="2048,2048,2048", device="auto"
)
@click.option("--curvature", default="mc", show_default=True)
@click.option("--kinds", default=",".join(LEARNED), show_default=True, help="kinds of candidate")
@click.option("--candidates", default=60, show_default=True, help="candidates of each kind measured one at a time")
@click.option("--size", default=64, show_default=True, help="candidates of a chosen set, at most")
@click.option("--out", type=click.Path(path_type=Path), help="write every figure as CSV")
def main(experiment: Experiment, curvature: str, kinds: str, candidates: int, size: int, out: Path | None) -> None:
    """Print what was predicted on learned, on judged and on unseen samples, and what came true."""
    rows: list[Row] = []
    for network, problem in experiment.problems():
        graph = experiment.trained(network, problem)
        options = GaussNewton(curvature, kinds=tuple(kinds.split(",")))
        crossed = AnalysisManager(problem).get(options, graph)
        rows += rows_of(graph, problem, network, options, crossed, options.kinds, candidates, size)
        if out is not None:
            write_csv(rows, out)
    show(rows)


if __name__ == "__main__":
    main()
