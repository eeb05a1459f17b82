"""Fig. 4 of the paper (arXiv 2411.05855): how far each way of learning splits lowers the true loss, channel by channel.

Every method finds a split of each channel of the layer (the first, unless --site names another) on the same learn samples.
Each split is then applied alone, and the decrease of the mean loss is measured on training samples that no method saw, and on
the learn samples, since direct optimisation overfits those. Direct optimisation of the true loss is the ceiling: "direct" moves
the copies in opposite directions, as the library does; "direct-unbounded" does so without the trust region. "mc-free", "exact-free"
and "direct-free" move each copy as it likes, which includes a step of training that needs no split, and have the last of them
for a ceiling. Seconds are those of learning all channels.

    tools/fig4.py --data cifar10.npz --network vgg11 --epochs 6 --out fig4
    tools/fig4.py --data cifar100 --network vgg19 --width 1 --epochs 60 --device cuda --out fig4
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.baselines import FireflySplit, RandomSplit, SteepestSplit
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.splits import SplitLearner
from gngraph.scoring.registry import register_proposer
from gngraph.scoring.sites import SplitSite, split_sites
from tools.direct_splits import DirectOptions, DirectSplits
from tools.experiment import Experiment, experiment_options
from tools.free_splits import FreeSplits
from tools.measuring import Samples, apply, changes, unanalysed, write_csv

console = Console(width=120)

LEARNED: dict[str, tuple[str, type[SplitLearner]]] = {
    "random": ("mc", RandomSplit),
    "steepest": ("mc", SteepestSplit),
    "firefly": ("mc", FireflySplit),
    "rank1": ("rank1", SplitLearner),
    "mc": ("mc", SplitLearner),
    "exact": ("exact", SplitLearner),
    "mc-free": ("mc", FreeSplits),
    "exact-free": ("exact", FreeSplits),
}
"""Method -> curvature and learner, from one collection of gradients for all channels."""

DIRECT: dict[str, tuple[bool, bool]] = {
    "direct": (True, True),
    "direct-unbounded": (True, False),
    "direct-free": (False, True),
}
"""Method -> whether the copies move in opposite directions, and whether the trust region holds."""


@dataclass(frozen=True)
class Row:
    """What a method reached for one channel: decreases of the mean loss, and the seconds it took for all channels."""

    network: str
    seed: int
    method: str
    channel: int
    unseen: float
    unseen_error: float
    learn: float
    seconds: float


@cache
def kind_of(method: str, node: str, space: str) -> str:
    """The kind of candidate that the splits of one layer are, learned as a method does."""

    def propose(context: Context) -> Iterator[SplitLearner]:
        for site in split_sites(context.graph, context.spaces):
            if (site.node, site.space) == (node, space):
                size = context.spaces[space].size
                yield LEARNED[method][1](context.graph, site, size, context.options, context.generator)

    kind = f"split-{method}-of-{node}-in-{space}"
    register_proposer(kind, propose)
    return kind


def learned(graph: Graph, problem: Problem, site: SplitSite, method: str, options: GaussNewton) -> list[Morphism]:
    """A split of every channel of one layer, as the analysis finds them when it scores nothing else."""
    wanted = replace(options, curvature=LEARNED[method][0], kinds=(kind_of(method, site.node, site.space),))
    return [c.morphism for c in AnalysisManager(problem).get(wanted, graph).candidates]


def found_by(
    method: str, graph: Graph, problem: Problem, site: SplitSite, options: GaussNewton, passes: int, block: int
) -> tuple[list[Morphism], float]:
    """The splits of a method, and the seconds it took to find them."""
    started = time.perf_counter()
    if method in LEARNED:
        morphisms = learned(graph, problem, site, method, options)
    else:
        opposite, bounded = DIRECT[method]
        learn = options if bounded else replace(options, trust=math.inf)
        size = ChannelSpaces.of(graph)[site.space].size
        direct = DirectSplits(graph, site, size, problem, DirectOptions(passes, opposite, learn, block))
        direct.run()
        morphisms = list(direct.morphisms())
    return morphisms, time.perf_counter() - started


def draw(rows: Sequence[Row]) -> Figure:
    """A row of two panels a network: the decrease by method, summed over the channels, and by channel."""
    networks, methods = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("network", "method"))
    figure = Figure(figsize=(13, 0.6 + 4.4 * len(networks)), layout="constrained")
    grid: Any = figure.subplots(len(networks), 2, squeeze=False, width_ratios=(1, 1.5))
    colours = matplotlib.colormaps["tab20"]
    for (sums, by_channel), network in zip(grid, networks, strict=True):
        own = [row for row in rows if row.network == network]
        totals = {method: _totals(rows, network, method) for method in methods}
        top = next(m for m in ("direct-free", "direct", methods[-1]) if m in methods)
        places = np.arange(len(methods))
        for shift, i, label, colour in ((-0.2, 0, "unseen samples", "#0072B2"), (0.2, 1, "learn samples", "#BBBBBB")):
            sums.barh(places + shift, [totals[m][i] for m in methods], 0.4, label=label, color=colour)
        # harm may be a hundred times the gain: beyond the ceiling the axes are logarithmic
        sums.set_xscale("symlog", linthresh=max(1e-6, 1.5 * max(map(abs, totals[top][:2]))))
        sums.set_yticks(places, [f"{m}\n{totals[m][2]:.1f} s" for m in methods], fontsize=7)
        sums.invert_yaxis()
        sums.set_xlabel("decrease of the loss, summed over the channels", fontsize=8)
        sums.legend(frameon=False, fontsize=7)
        keys = [(r.seed, r.channel) for r in sorted(own, key=lambda row: -row.unseen) if r.method == top]
        for rank, method in enumerate(methods):
            table = {(row.seed, row.channel): row.unseen for row in own if row.method == method}
            y = [table.get(key, math.nan) for key in keys]
            by_channel.plot(y, "o-", markersize=3, linewidth=0.8, color=colours(rank % 20), label=method)
        largest = max((abs(row.unseen) for row in own if row.method == top), default=0.0)
        by_channel.set_yscale("symlog", linthresh=max(1e-6, largest))
        by_channel.axhline(0.0, color="black", linewidth=0.5)
        by_channel.set_xlabel(f"channel, in the order of '{top}'", fontsize=8)
        by_channel.set_ylabel("decrease of the loss, unseen samples", fontsize=8)
        by_channel.legend(frameon=False, fontsize=7, ncols=2)
        by_channel.set_title(f"{Path(network).stem}: splits of {len(keys)} channels, each alone", fontsize=9)
        for axes in (sums, by_channel):
            axes.tick_params(labelsize=7)
            axes.grid(linewidth=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def show(rows: Sequence[Row]) -> None:
    """Print sums, shares of the ceiling and seconds."""
    table = Table(title="decrease of the loss, summed over the channels")
    for column in ("network", "method", "unseen", "of ceiling", "learn", "of ceiling", "seconds", "of ceiling"):
        table.add_column(column)
    for network, method in dict.fromkeys((row.network, row.method) for row in rows):
        ceiling = _totals(rows, network, "direct-free" if method.endswith("-free") else "direct")
        own = _totals(rows, network, method)
        cells = []
        for i, value in enumerate(own):
            share = f"{value / ceiling[i]:.1%}" if ceiling[i] > 0 else "-"
            cells += [f"{value:.5f}" if i < 2 else f"{value:.2f}", share]
        table.add_row(Path(network).stem, method, *cells)
    console.print(table)


def _totals(rows: Sequence[Row], network: str, method: str) -> tuple[float, float, float]:
    own = [row for row in rows if (row.network, row.method) == (network, method)]
    return sum(r.unseen for r in own), sum(r.learn for r in own), sum({r.seed: r.seconds for r in own}.values())


@click.command()
@experiment_options(
    download=False, networks=("vgg11",), width=0.25, epochs=6, lr=None, seeds=1, batch=128, device="auto"
)
@click.option("--site", help="the layer whose channels are split; default: the first")
@click.option("--methods", default="random,steepest,firefly,rank1,mc,exact,direct,mc-free,exact-free,direct-free",
              show_default=True, help=f"of {', '.join((*LEARNED, *DIRECT))}")  # fmt: skip
@click.option("--samples", default=2048, show_default=True, help="learn samples",
              callback=lambda context, option, learn: (learn, 8, 8))  # fmt: skip  # nothing is judged: as few as there may be
@click.option("--unseen", default=8192, show_default=True, help="test samples that the decrease is measured on")
@click.option("--passes", default=12, show_default=True, help="passes of the methods over the learn samples")
@click.option("--direct-passes", default=12, show_default=True, help="passes of direct optimisation")
@click.option("--rate", default=GaussNewton.rate, show_default=True, help="step size")
@click.option("--trust", default=GaussNewton.trust, show_default=True, help="trust region")
@click.option("--block", default=8, show_default=True, help="channels that direct optimisation runs as one batch")
@click.option("--out", type=click.Path(path_type=Path), default=Path("fig4"), show_default=True,
              help="picture and table: OUT.png and OUT.csv")  # fmt: skip
def main(
    experiment: Experiment,
    site: str | None,
    methods: str,
    unseen: int,
    passes: int,
    direct_passes: int,
    rate: float,
    trust: float,
    block: int,
    out: Path,
) -> None:
    """Draw the decrease of the true loss that each way of learning splits reaches, and print it beside the time it takes."""
    names = methods.split(",")
    for name in names:
        if name not in (*LEARNED, *DIRECT):
            raise click.UsageError(f"there is no method '{name}': choose among {', '.join((*LEARNED, *DIRECT))}")
    rows: list[Row] = []
    for network, problem in experiment.problems():
        graph, seed = experiment.trained(network, problem), problem.seed
        sites = {found.node: found for found in split_sites(graph, ChannelSpaces.of(graph)) if not found.linear}
        named = [n for n in sites if site in (None, n, graph.nodes[n].module)]
        if not named:
            raise click.UsageError(f"no layer '{site}' of {network} can be split: choose among {', '.join(sites)}")
        held = {
            "unseen": Samples(problem, unanalysed(problem, unseen)),
            "learn": Samples(problem, problem.splits.learn),
        }
        options = GaussNewton(epochs=passes, rate=rate, trust=trust)
        for method in names:
            found, seconds = found_by(method, graph, problem, sites[named[0]], options, direct_passes, block)
            measured = changes(graph, (apply(graph, [m]) for m in found), held)
            rows += [
                Row(network, seed, method, channel, -c["unseen"].mean, c["unseen"].error, -c["learn"].mean, seconds)
                for channel, c in enumerate(measured)
            ]
            _write(rows, out)
            console.print(f"{network}, seed {seed}, {method}: {_totals(rows, network, method)}", style="dim")
    show(rows)
    console.print(f"{out}.png, {out}.csv")


def _write(rows: Sequence[Row], out: Path) -> None:
    write_csv(rows, Path(f"{out}.csv"))
    draw(rows).savefig(f"{out}.png", dpi=130)


if __name__ == "__main__":
    main()
