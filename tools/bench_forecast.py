"""Forecasts of the loss after training against what happens, beside the immediate change and the shortest trainings.

Seeds of several families are trained briefly, and networks of the budget are made of each: some layers removed, some proposals of
structure made, widths filled up by random worths. Each is a pair of forks: one goes on with its weights and a share of new ones,
the other with new ones alone. Every fork is trained at a few short lengths and at the whole one, each along a cosine of its own.
The tables have the rank correlation of the loss at the end with that right after the rewrite, with that after short trainings, and
with the forecast by these (`gngraph.search.forecast`), of all forks and of those of one seed network by the median; how many ends
lie in the intervals; and which of the two forks of a pair the forecast takes, as `--final auto` does. A fork is a line of
OUT/forks.jsonl and is not made again.

    tools/bench_forecast.py --data cifar10.npz --size 16 --train 4000 --out forks/
    tools/bench_forecast.py --data digits --budget 10k,200k --epochs 64 --network vgg11 --out forks/
    tools/bench_forecast.py --data cifar10.npz --size 16 --train 4000 --out forks/ --forks 0        what is there
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import Data, Download, load_data
from gngraph.errors import GnGraphError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.options.runs import PERTURB
from gngraph.rewrite.layer_removal import removable_layers
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel
from gngraph.running.batchnorm import settled
from gngraph.running.evaluation import mean_losses
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.search.depth import TRIAL_BATCHES, TrialTraining, removed_in_turn
from gngraph.search.forecast import Forecast, forecasts
from gngraph.search.proposals import PROPOSALS
from gngraph.search.structure import restructured
from gngraph.search.widths import allocated
from gngraph.training.perturbation import perturbed
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.bench_growth import budget_named, shrunken
from tools.growth_designs import FAMILY, designed

console = Console(width=150)

STORE = "forks.jsonl"

SHORT = (1 / 32, 1 / 16, 1 / 8)
"""Lengths of the short trainings, as shares of the whole one."""

START = 0.25
"""Size of the seeds as a share of the budget."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all forks share.

    Attributes:
        data: the data set.
        budget: of every fork, as text.
        epochs: of the whole training; a quarter of them trains a seed.
        lr: learning rate.
        batch: samples a step: a short training is to have some 32 of them.
        forks: of each seed network, two of each architecture.
    """

    data: Data
    budget: str
    epochs: int
    lr: float
    batch: int
    forks: int


def made(network: str, seed: int, setting: Setting, known: Sequence[Line]) -> Iterator[Line]:
    """The forks of a seed network that are not known yet."""
    name, samples = setting.data.name, len(setting.data.train)
    own = (name, network, seed)
    have = {line["fork"] for line in known if (line["data"], line["network"], line["seed"]) == own}
    if have >= set(range(setting.forks)):
        return
    few = min(512, samples // 6)
    problem = Problem(setting.data, device="cpu", seed=seed, learn=few, judge=2 * few, report=few)
    options, analyses = TrainOptions(lr=setting.lr, batch_size=setting.batch), AnalysisManager(problem)
    budget = budget_named(setting.budget, network, setting.data)
    start = Budget(*(side and int(side * START) for side in (budget.max_params, budget.max_flops)))
    parent = restarted(designed(FAMILY, network, setting.data, start), mixed(seed, 1))
    parent = Trainer(problem, options).train(parent, Stretch(setting.epochs // 4)).graph
    whole = setting.epochs * len(problem.train)
    lengths = [TrialTraining(problem, options, round(whole * share)) for share in (*SHORT, 1)]

    def loss(graph: Graph) -> float:
        settling = settled([graph], problem, batches_read=TRIAL_BATCHES)
        return mean_losses(settling, problem, problem.splits.judge)[0]

    before, draw = loss(parent), random.Random(mixed(seed, 7))
    for fork in range(0, setting.forks, 2):
        found = None
        while found is None:
            found = forked(parent, analyses, budget, draw)
        graph, what = found
        size, at_once = cost(graph), loss(graph)
        for number, in_place in ((fork, True), (fork + 1, False)):
            if number not in have:
                new = mixed(seed, fork)
                begun = perturbed(graph, PERTURB, new) if in_place else restarted(graph, new)
                yield {
                    "data": name, "network": network, "seed": seed, "fork": number, "what": what, "in_place": in_place,
                    "params": size.params, "flops": size.flops, "before": before, "at_once": at_once,
                    "trials": {str(trial.samples): trial.after(begun) for trial in lengths},
                }  # fmt: skip


def forked(parent: Graph, analyses: AnalysisManager, budget: Budget, draw: random.Random) -> tuple[Graph, str] | None:
    """A random network of the budget with the weights of the parent, and what was done; None where that cannot be."""
    try:
        layers = removable_layers(parent, analyses.get(ChannelSpaces, parent))
        count = draw.choice([0, 0, 1, 2, 3, 4])
        steps = removed_in_turn(parent, analyses, draw.sample(layers, min(count, len(layers))))
        graph, changes = steps[-1].graph if steps else parent, list[str]()
        for change in draw.sample(list(PROPOSALS), draw.choice([0, 0, 1, 2])):
            steps = restructured(graph, analyses, change)
            if steps:
                graph = steps[-1].graph
                changes.append(change)
        spaces = analyses.get(ChannelSpaces, graph)
        model, spread = budget.model(graph, spaces), draw.choice([0.0, 0.7, 1.4])
        worth = {space.name: 2 ** draw.gauss(0, 2 * spread) for space in spaces.free}
        widths = allocated(model, model.widths, worth, budget)
        new = [NewChannel(space.name) for space in spaces.free for _ in range(widths[space.name] - space.size)]
        graph = morph(graph, spaces, new).graph
    except GnGraphError:  # a change does not take what another one made of the network
        return None
    return (graph, f"-{count} {'+'.join(changes)} spread {spread}") if budget.allows(cost(graph)) else None


def curve(line: Line, points: int) -> dict[int, float]:
    """The first points of a learning curve."""
    return {int(samples): loss for samples, loss in list(line["trials"].items())[:points]}


def end(line: Line) -> float:
    """The loss after the whole training."""
    return float(list(line["trials"].values())[-1])


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's."""
    ranks = torch.tensor([list(a), list(b)], dtype=torch.float64).argsort(1).argsort(1).double()
    return float(torch.corrcoef(ranks)[0, 1])


def correlations(lines: Sequence[Line], values: Sequence[float]) -> str:
    """Rank correlation of a value of each fork with its end: of all forks, and of those of one seed network by the median."""
    both = sorted(zip(map(_pool, lines), values, map(end, lines), strict=True))
    pools = [list(pool) for _, pool in groupby(both, key=lambda one: one[0])]
    own = [rank_correlation([x for _, x, _ in pool], [y for *_, y in pool]) for pool in pools if len(pool) > 3]
    return f"{rank_correlation(values, [end(x) for x in lines]):.2f}; {median(own):.2f}"


def _pool(line: Line) -> tuple[str, str, int, bool]:
    """What forks that are compared share."""
    return line["data"], line["network"], line["seed"], line["in_place"]


def forecast_by(lines: Sequence[Line], points: int) -> list[Forecast]:
    """Forecasts by the first points of each curve, those that are compared together."""
    found = dict[tuple[str, str, int, bool], Iterator[Forecast]]()
    for pool in dict.fromkeys(map(_pool, lines)):
        own = [line for line in lines if _pool(line) == pool]
        whole = int(list(own[0]["trials"])[-1])
        found[pool] = iter(forecasts([curve(x, points) for x in own], whole))
    return [next(found[_pool(line)]) for line in lines]


def tables(lines: list[Line]) -> Iterator[Table]:
    """What the forks say."""
    ways = [[x for x in lines if x["in_place"] == in_place] for in_place in (True, False)]
    names = [f"{name}, {len(own)}" for name, own in zip(("in place", "from new weights"), ways, strict=True)]
    table = Table("rank correlation with the end", *names)
    table.add_row("change at once", *(correlations(own, [x["at_once"] - x["before"] for x in own]) for own in ways))
    for i, share in enumerate(SHORT):
        seen = ([list(x["trials"].values())[i] for x in own] for own in ways)
        table.add_row(
            f"after {share:.3g} of the training",
            *(correlations(own, losses) for own, losses in zip(ways, seen, strict=True)),
        )
    held = Table("ends in the interval of .9", *names, "error of the forecast")
    for points in range(2, len(SHORT) + 1):
        named, found = f"forecast by the first {points}", [forecast_by(own, points) for own in ways]
        pairs = [list(zip(own, of, strict=True)) for own, of in zip(ways, found, strict=True)]
        table.add_row(named, *(correlations(own, [x.loss for x in of]) for own, of in zip(ways, found, strict=True)))
        inside = [[low <= end(x) <= high for x, one in pair for low, high in [one.interval()]] for pair in pairs]
        off = median(abs(one.loss / end(x) - 1) for pair in pairs for x, one in pair)
        held.add_row(named, *(f"{mean(own):.3f}" for own in inside), f"{100 * off:.1f} %")
    yield table
    yield held
    yield endings(lines)


def endings(lines: Sequence[Line]) -> Table:
    """What comes of taking that fork of a pair of which the forecast is lower."""
    table = Table("of two forks of one architecture", "ends of the loss, mean", "takes the lower one")
    pairs = dict[tuple[Any, ...], dict[bool, Line]]()
    for line in lines:
        pairs.setdefault((*_pool(line)[:3], line["fork"] // 2), {})[line["in_place"]] = line
    both = [pair for pair in pairs.values() if len(pair) == 2]

    def row(name: str, taken: Sequence[Line]) -> None:
        right = mean(end(one) == min(map(end, pair.values())) for one, pair in zip(taken, both, strict=True))
        table.add_row(name, f"{mean(map(end, taken)):.4f}", f"{100 * right:.0f} % of {len(both)}")

    row("in place", [pair[True] for pair in both])
    row("from new weights", [pair[False] for pair in both])
    for points in range(2, len(SHORT) + 1):
        taken = list[Line]()
        for pair in both:
            ways = list(pair.values())
            found = forecasts([curve(x, points) for x in ways], int(list(ways[0]["trials"])[-1]))
            taken.append(min(zip(found, ways, strict=True), key=lambda both: both[0].loss)[1])
        row(f"forecast by the first {points}", taken)
    row("the lower one", [min(pair.values(), key=end) for pair in both])
    return table


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", required=True, help="data set by name or path")
@click.option("--download", is_flag=True, help="fetch the data set if it is missing")
@click.option("--size", default=0, help="average images down to this side")
@click.option("--train", default=0, help="training samples; default: all")
@click.option("--network", "networks", multiple=True, default=("vgg11", "resnet20", "mobilenet"), show_default=True)
@click.option("--budget", default="30k,600k", show_default=True, help="params,FLOPs")
@click.option("--epochs", default=16, show_default=True, help="of the whole training")
@click.option("--lr", default=0.05, show_default=True, help="learning rate")
@click.option("--batch", default=32, show_default=True, help="samples a step")
@click.option("--forks", default=18, show_default=True, help="of each seed network")
@click.option("--seeds", default=4, show_default=True, help="seed networks of each family")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the lines")
def main(networks: tuple[str, ...], seeds: int, out: Path, download: bool, **given: Any) -> None:
    """Make what is missing, and print the tables."""
    torch.set_num_threads(1)
    missing = Download.IF_MISSING if download else Download.NEVER
    data = shrunken(load_data(given.pop("data"), download=missing), given.pop("size"), given.pop("train"))
    setting = Setting(data, **given)
    out.mkdir(parents=True, exist_ok=True)
    path = out / STORE
    lines: list[Line] = (
        [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )
    for seed in range(seeds):
        for network in networks:
            for line in made(network, seed, setting, lines):
                lines.append(line)
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                console.print(f"{network} {seed} {line['what']}: {end(line):.4f}", style="dim")
    for table in tables(lines):
        console.print(table)


if __name__ == "__main__":
    main()
