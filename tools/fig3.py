"""Fig. 3 of the paper (arXiv 2411.05855): estimated against actual change of the loss, the network's other weights held constant.

For each network and seed: train (a saved network is taken as it is), score, apply candidates one at a time, and measure the
change of the mean loss. The scatter is of predicted and actual change on the report split, which neither learning nor
selection saw, nor training. The interval of 1.96 errors on either side of a predicted change is a statement about unseen
samples, so its coverage is measured on test samples. How often the actual change lies in the interval counts the noise of the
actual change as a miss; where that noise is added to the interval, 95 % should lie inside. Beside it stands the same for the
error of the samples alone, without that of the model.

    tools/fig3.py --data cifar10.npz --network vgg11 --network resnet20 --epochs 6 --seeds 2 --out fig3
    tools/fig3.py --data cifar100 --network vgg19 --width 1 --epochs 60 --candidates 500 --device cuda --out fig3
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gngraph.baselines  # noqa: F401  (makes its kinds and rules known)
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.registry import PROPOSERS
from tools.experiment import Experiment, experiment_options
from tools.measuring import Agreement, Samples, apply, changes, sample, unanalysed, write_csv

console = Console(width=120)
REACH = 1.96
"""Standard errors on either side of a predicted change: 95 % of a normal distribution."""


@dataclass(frozen=True)
class Point:
    """A candidate with the change of the mean loss predicted for it, and the actual ones.

    Attributes:
        site: the layer, space or value that it changes.
        depth: place of the site in the network's order, for its colour.
        channel: which channel of the site; empty for what acts on none.
        predicted, error: on the report split, with its error: that of the samples and of the model.
        second_order: the part of the predicted change that is of second order.
        sampling: the error of the samples alone.
        actual: on the report split.
        unseen, unseen_error: on samples that neither the network nor the analysis saw.
    """

    network: str
    seed: int
    kind: str
    site: str
    depth: int
    channel: str
    predicted: float
    error: float
    second_order: float
    sampling: float
    actual: float
    unseen: float
    unseen_error: float


def held_samples(problem: Problem, unseen: int) -> dict[str, Samples]:
    """The report split, and at most `unseen` samples that neither the network nor the analysis saw."""
    return {"report": Samples(problem, problem.splits.report), "unseen": Samples(problem, unanalysed(problem, unseen))}


def scored_together(kinds: Sequence[str]) -> list[tuple[str, ...]]:
    """Kinds in groups, an analysis each: one, unless candidates of several kinds would be told apart by nothing.

    Raises:
        click.UsageError: there is no such kind.
    """
    for kind in kinds:
        if kind not in PROPOSERS:
            raise click.UsageError(f"there is no kind '{kind}': choose among {', '.join(PROPOSERS)}")
    distinct = len({_deed(kind) for kind in kinds}) == len(kinds)
    return [tuple(kinds)] if distinct else [(kind,) for kind in kinds]


def _deed(kind: str) -> str:
    """What candidates of a kind do: those of "split-firefly" are splits."""
    own = kind.partition("-")[0]
    return own if own in PROPOSERS else kind


def points_of(
    graph: Graph,
    problem: Problem,
    network: str,
    kind: str,
    scores: Scores,
    count: int,
    held: dict[str, Samples],
) -> list[Point]:
    """At most `count` random candidates of one of the kinds that were scored, predicted and measured."""
    of_kind = [i for i, c in enumerate(scores.candidates) if c.morphism.kind == _deed(kind)]
    return points_at(graph, problem, network, kind, scores, sample(problem, of_kind, count), held)


def points_at(
    graph: Graph,
    problem: Problem,
    network: str,
    kind: str,
    scores: Scores,
    chosen: Sequence[int],
    held: dict[str, Samples],
) -> list[Point]:
    """Some of the candidates that were scored, predicted and measured."""
    changed = (apply(graph, [scores.candidates[i].morphism]) for i in chosen)
    report = scores.report
    predicted, second_order = report.changes().tolist(), report.second_order().tolist()
    total, sampling = report.total_errors().tolist(), report.errors().tolist()
    order = list(graph.nodes)
    places = {graph.nodes[name].module or name: i for i, name in reversed(list(enumerate(order)))}
    spaces = {space.name: min(order.index(slot.node) for slot in space.slots) for space in ChannelSpaces.of(graph)}
    return [
        Point(
            network,
            problem.seed,
            kind,
            candidate.site,
            places[candidate.site] if candidate.site in places else spaces[candidate.site],
            str(getattr(candidate.morphism, "channel", "")),
            predicted[i],
            total[i],
            second_order[i],
            sampling[i],
            actual["report"].mean,
            actual["unseen"].mean,
            actual["unseen"].error,
        )
        for i, actual in zip(chosen, changes(graph, changed, held), strict=True)
        for candidate in (scores.candidates[i],)
    ]


def coverage(points: Iterable[Point], where: str, *, error: str = "error", noisy: bool = True) -> float:
    """Share of the points whose actual change lies within `REACH` errors of the predicted one; nan where none was measured.

    Args:
        points: of any networks and kinds.
        where: "actual" (the report split itself, which has no noise of its own) or "unseen".
        error: "error", or "sampling" for that of the samples alone.
        noisy: whether the interval counts the standard error of the actual change as well.
    """
    inside = []
    for point in points:
        actual, width = getattr(point, where), getattr(point, error)
        width = math.hypot(width, getattr(point, f"{where}_error")) if noisy and where != "actual" else width
        inside.append(math.nan if math.isnan(actual) else abs(actual - point.predicted) <= REACH * width)
    return float(np.mean(inside)) if inside else float("nan")


def draw(points: Sequence[Point]) -> Figure:
    """One row of panels a network, one panel a kind; the colour is the depth of the site."""
    networks = list(dict.fromkeys(point.network for point in points))
    kinds = list(dict.fromkeys(point.kind for point in points))
    figure = Figure(figsize=(0.8 + 3.9 * len(kinds), 4.0 * len(networks)), layout="constrained")
    grid: Any = figure.subplots(len(networks), len(kinds), squeeze=False)
    colours = matplotlib.colormaps["viridis"]
    for row, network in zip(grid, networks, strict=True):
        sites = sorted({(p.depth, p.site) for p in points if p.network == network})
        for axes, kind in zip(row, kinds, strict=True):
            some = [p for p in points if (p.network, p.kind) == (network, kind)]
            x, y = [p.predicted for p in some], [p.actual for p in some]
            for rank, (_, site) in enumerate(sites):
                own = [p for p in some if p.site == site]
                if own:
                    colour = colours(rank / max(1, len(sites) - 1))
                    axes.errorbar(
                        [p.predicted for p in own], [p.actual for p in own], xerr=[p.error for p in own], fmt="o",
                        markersize=3.5, color=colour, elinewidth=0.5, alpha=0.8, label=site,
                    )  # fmt: skip
            if some:
                low, high = min(*x, *y, 0.0), max(*x, *y, 0.0)
                axes.plot([low, high], [low, high], color="#D55E00", linewidth=1, zorder=0)
            axes.set_title(f"{Path(network).stem}, {kind}\n{Agreement.of(x, y)}", fontsize=9)
            axes.set_xlabel("predicted change of the loss (bar: its error)", fontsize=8)
            axes.set_ylabel("actual change, report split", fontsize=8)
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=5)
            axes.grid(linewidth=0.3)
        names = dict.fromkeys(site for _, site in sites)
        handles = {
            label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        row[-1].legend(
            [handles[name] for name in names], list(names), title="site, in order", loc="center left",
            bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=6, title_fontsize=7,
        )  # fmt: skip
    return figure


def show(points: Sequence[Point]) -> None:
    """Print agreement and coverage by network and kind."""
    met = Table(
        "network", "kind", "points", "Pearson", "Spearman", "slope", title="predicted against actual, report split"
    )
    covered = Table(
        "network", "kind", "report split", "unseen", "unseen, its noise counted",
        "unseen, error of the samples alone",
        title=f"share of actual changes within ±{REACH} errors of the predicted one (bar 95 %)",
    )  # fmt: skip
    for network, kind in dict.fromkeys((p.network, p.kind) for p in points):
        own = [p for p in points if (p.network, p.kind) == (network, kind)]
        agreed = Agreement.of([p.predicted for p in own], [p.actual for p in own])
        figures = (agreed.pearson, agreed.spearman, agreed.slope)
        met.add_row(network, kind, str(agreed.points), *(f"{v:.3f}" for v in figures))
        shares = [coverage(own, "actual"), coverage(own, "unseen", noisy=False)]
        shares += [coverage(own, "unseen"), coverage(own, "unseen", error="sampling")]
        covered.add_row(network, kind, *("-" if math.isnan(v) else f"{v:.0%}" for v in shares))
    console.print(met)
    console.print(covered)


@click.command()
@experiment_options(
    download=False, networks=("vgg11", "resnet20"), width=0.25, epochs=6, lr=None, seeds=1, samples="4096,2048,2048",
    batch=128, device="auto",
)  # fmt: skip
@click.option("--kinds", default="split,new,prune,merge,insert", show_default=True, help="kinds of candidate")
@click.option("--curvature", default="mc", show_default=True)
@click.option("--passes", default=1, show_default=True, help="passes over the learn split")
@click.option("--looks", default=0, show_default=True, help="candidates whose actual change the analysis looks at")
@click.option("--candidates", default=60, show_default=True, help="candidates of each kind measured, at random")
@click.option("--unseen", default=4096, show_default=True, help="test samples, for the coverage")
@click.option("--out", type=click.Path(path_type=Path), default=Path("fig3"), show_default=True,
              help="picture and table: OUT.png and OUT.csv")  # fmt: skip
def main(
    experiment: Experiment,
    kinds: str,
    curvature: str,
    passes: int,
    looks: int,
    candidates: int,
    unseen: int,
    out: Path,
) -> None:
    """Draw predicted against actual changes of the loss, and print their agreement and the coverage of the intervals."""
    groups = scored_together(kinds.split(","))
    points: list[Point] = []
    for network, problem in experiment.problems():
        held = held_samples(problem, unseen)
        graph = experiment.trained(network, problem)
        for group in groups:
            options = GaussNewton(curvature, epochs=passes, looks=looks, kinds=group)
            scores = AnalysisManager(problem).get(options, graph)
            for note in scores.notes:
                console.print(f"{network}: {note}", style="dim")
            for kind in group:
                points += points_of(graph, problem, network, kind, scores, candidates, held)
            _write(points, out)
        console.print(f"{network}, seed {problem.seed}: {len(points)} points so far")
    show(points)
    console.print(f"{out}.png, {out}.csv")


def _write(points: Sequence[Point], out: Path) -> None:
    write_csv(points, Path(f"{out}.csv"))
    draw(points).savefig(f"{out}.png", dpi=130)


if __name__ == "__main__":
    main()
