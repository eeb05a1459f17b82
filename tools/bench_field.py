"""The tables at the size of the field, in pieces: shrinking, growth by its seconds, and search in a known space.

shrink: a ResNet-56, a VGG-19 and a VGG-19 of uniform widths, trained for 200 epochs, to 47 and 25 % of FLOPs and parameters, and
tuned for 100 from a rate of .01, as Torch-Pruning's own benchmark does; beside Torch-Pruning, plainly narrower, and from scratch.
growth: a ResNet-20 as it is, and grown to its size, for 200 epochs and for 140; seconds are shares of those of the first.
search: the size space of NATS-Bench by its recipe (90 epochs, a batch of 256), at .1, .2 and .4 million parameters and the FLOPs
that architectures of that size have in the median, beside eight random architectures of both; and a VGG-19 as the paper grows it.

Each part of a table (--parts) is one of `tools/bench_growth.py`, with its rows and its lines. A finished run is a line of --lines
and is not made again, what is unfinished goes on from OUT/unfinished: the same command, given again and again with --minutes, makes
the whole. OUT has the networks too, which other rows start from, and has to come along. A small version is the same command with
--size, --train, --width, --epochs and --tuning.

    tools/bench_field.py shrink --data cifar10 --download --minutes 12 --out field/ --lines docs/results/field.jsonl
    tools/bench_field.py search --data cifar10.npz --size 16 --train 10000 --width 0.5 --epochs 10 --seeds 1 --parts nats-0.1M \\
        --out small/
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.cost import Budget
from gngraph.data import Data, Download, load_data
from gngraph.errors import GnGraphError
from gngraph.options.runs import PERTURB
from tools.bench_growth import Bench, Cell, budget_named, lines_of, require_methods, shrunken
from tools.growth_cells import CELLS, budget_of_cells
from tools.growth_methods import RANDOM
from tools.growth_pieces import Piece
from tools.growth_report import table
from tools.growth_runs import Settings

console = Console(width=160)

BudgetOf = Callable[[Data, float], Budget]
"""The budget of a part, from the data and --width."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of a table: one network at one budget.

    Attributes:
        methods: its rows.
        budget: of it.
        epochs: of the table that it is of.
        share: of these that it has.
        own: settings in which it differs from `COMMON`.
    """

    methods: str
    budget: BudgetOf
    epochs: int
    share: float = 1.0
    own: Mapping[str, Any] = field(default_factory=dict)


COMMON: Mapping[str, Any] = {
    "design": "family", "rounds": 3, "growing": 0.4, "final": "cycle", "perturb": PERTURB, "start": 0.05, "extension": 0.5,
    "shrinkage": 0.5, "params_left": 1.0, "optimizer": "sgd", "lr": 0.1, "tuning_lr": None, "weight_decay": 5e-4, "batch_size": 128,
}  # fmt: skip
"""Settings that all parts share."""

PRUNED = ("magnitude", "taylor", "hessian", "random")
"""Torch-Pruning's importances, each layer alike and over all layers together."""


def of_family(network: str, width: float) -> BudgetOf:
    """What the family has at a multiple of --width.

    Args:
        network: of the zoo.
        width: that multiple.
    """
    return lambda data, scale: budget_named(f"width={width * scale:g}", network, data)


def shrinking(network: str, design: str, share: float) -> Part:
    """A trained network to a share of its FLOPs and parameters.

    Args:
        network: of the zoo.
        design: of its widths, within what its family has.
        share: that stays.
    """
    pruned = (f"tp-{importance}{way}" for way in ("-uniform", "") for importance in PRUNED)
    own = {"perturb": 0.0, "tuning_lr": 0.01, "shrinkage": share, "params_left": share}
    methods = ("gngraph", "gngraph-low-rank", *pruned, "narrower", "smaller", "gngraph:scratch")
    return Part(",".join(methods), of_family(network, 1.0), 200, own={"network": network, "design": design, **own})


def searching(millions: float) -> Part:
    """Architectures of the size space of so many million parameters."""

    def budget(data: Data, scale: float) -> Budget:
        return budget_of_cells(round(millions * 1e6 * scale**2), data)

    methods = ("gngraph", "gngraph-all-layers", *(f"random-{number}" for number in range(1, RANDOM + 1)))
    return Part(",".join(methods), budget, 90, own={"network": CELLS, "batch_size": 256})


PARTS: Mapping[str, Mapping[str, Part]] = {
    "shrink": {
        f"{name}-{share:.0%}".rstrip("%"): shrinking(network, design, share)
        for name, network, design in (
            ("resnet56", "resnet56", "family"), ("vgg19", "vgg19", "family"), ("vgg19-uniform", "vgg19", "uniform")
        )
        for share in (0.47, 0.25)
    },
    "growth": {
        "resnet20": Part("family,gngraph", of_family("resnet20", 1.0), 200, own={"network": "resnet20"}),
        "resnet20-shorter": Part("family,gngraph", of_family("resnet20", 1.0), 200, 0.7, {"network": "resnet20"}),
    },
    "search": {
        **{f"nats-{millions}M": searching(millions) for millions in (0.1, 0.2, 0.4)},
        "vgg19": Part("family,uniform,gngraph", of_family("vgg19", 0.25), 200, own={"network": "vgg19", "rounds": 8}),
    },
}  # fmt: skip
"""Table -> its parts, by name."""


def shares_of_seconds(lines: Sequence[Line]) -> list[str]:
    """For each row of a table of growth its accuracy, and its seconds as a share of those of the longest training as it is."""
    fixed: dict[int, Line] = {}
    for line in lines:
        if line["method"] == "family" and line["epochs"] >= fixed.get(line["seed"], line)["epochs"]:
            fixed[line["seed"]] = line
    rows: dict[tuple[int, str], list[Line]] = {}
    for line in lines:
        rows.setdefault((line["settings"]["epochs"], line["method"]), []).append(line)
    told = []
    for (epochs, method), own in rows.items():
        shares = [line["seconds"] / fixed[line["seed"]]["seconds"] for line in own if line["seed"] in fixed]
        share = f", {median(shares):.0%} of the seconds" if shares else ""
        told.append(f"{method}, {epochs} epochs: {median(line['accuracy'] for line in own):.4f}{share}")
    return told


def beside_random(lines: Sequence[Line]) -> list[str]:
    """For each size of a table of search, by seed: gngraph's rows beside the best and the median of the random architectures."""
    told = []
    for budget, seed in dict.fromkeys((line["budget"], line["seed"]) for line in lines):
        own = {line["method"]: line["accuracy"] for line in lines if (line["budget"], line["seed"]) == (budget, seed)}
        drawn = [accuracy for method, accuracy in own.items() if method.startswith("random-")]
        if drawn:
            grown = "; ".join(f"{m} {a:.4f}" for m, a in own.items() if not m.startswith("random-"))
            told.append(
                f"{budget}, seed {seed}: best of {len(drawn)} random {max(drawn):.4f}, median {median(drawn):.4f}; {grown}"
            )
    return told


TOLD: Mapping[str, Callable[[Sequence[Line]], list[str]]] = {
    "shrink": lambda lines: [], "growth": shares_of_seconds, "search": beside_random,
}  # fmt: skip
"""Table -> what is told of all its lines together."""


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.argument("name", metavar="TABLE", type=click.Choice(list(PARTS)))
@click.option("--data", required=True, help="data set by name or path")
@click.option("--download", is_flag=True, help="fetch the data set if it is missing")
@click.option("--size", default=0, help="average images down to this side")
@click.option("--train", default=0, help="training samples; default: all")
@click.option("--width", default=1.0, show_default=True, help="multiplier of all widths")
@click.option("--parts", help="names, with commas between them; default: all")
@click.option("--methods", help="rows, with commas between them; default: those of the part")
@click.option("--epochs", type=click.IntRange(1), help="of training; default: 200, of NATS-Bench 90")
@click.option("--tuning", default=100, show_default=True, help="epochs after the cut")
@click.option("--samples", default=2048, show_default=True, help="of each split of an analysis")
@click.option("--seeds", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU, for each run")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="runs at once")
@click.option("--minutes", type=click.FloatRange(0), help="end after so many, and go on another time")
@click.option("--lines", type=click.Path(path_type=Path), help="file of the finished runs; default: one in --out")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of networks and what is unfinished")
def main(
    name: str, data: str, download: bool, size: int, train: int, width: float, parts: str | None, methods: str | None,
    epochs: int | None, tuning: int, samples: int, seeds: int, device: str, threads: int, workers: int, minutes: float | None,
    lines: Path | None, out: Path,
) -> None:  # fmt: skip
    """Make what there is time for, and print what there is."""
    known, piece = PARTS[name], Piece.of(minutes)
    wanted = list(known) if parts is None else parts.split(",")
    if unknown := [part for part in wanted if part not in known]:
        raise click.UsageError(f"table '{name}' has no part '{unknown[0]}': choose among {', '.join(known)}")
    job = "shrink" if name == "shrink" else "search"
    everything: list[dict[str, Any]] = []
    left, failed = 0, list[str]()
    try:
        source = shrunken(load_data(data, download=Download.IF_MISSING if download else Download.NEVER), size, train)
        for each in wanted:
            part = known[each]
            length, rows = max(1, round((epochs or part.epochs) * part.share)), (methods or part.methods).split(",")
            require_methods(job, rows)
            own = {"job": job, "data": source.name, "size": size, "train": train, "epochs": length, "tuning": tuning}
            bench = Bench(
                Settings(**{**COMMON, **own, "samples": samples, **part.own}), source, device, out, piece, lines
            )
            budget = part.budget(source, width)
            cells = [Cell(row, seed, budget) for seed in range(seeds) for row in rows]
            found, missing = lines_of(bench, cells, workers, threads)
            everything, failed = everything + found, failed + missing
            left += len(cells) - len(found) - len(missing)
            if found:
                console.print(table(found, f"{each}: {bench.title}"))
    except GnGraphError as error:
        raise click.ClickException(str(error)) from error
    for text in TOLD[name](everything):
        console.print(text)
    if left:
        console.print(f"{left} runs are left: give the command again")
    if failed:
        raise click.ClickException("rows are missing from the table: " + "; ".join(failed))


if __name__ == "__main__":
    main()
