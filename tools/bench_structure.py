"""What a search over structure finds from seeds of any family, beside their plain designs and what a search for the depth finds.

A seed of --start of the budget is trained as growth trains one before its first rewrite, and searched as a run of --run-epochs is
(`gngraph.search.depth`, `gngraph.search.structure`). What was found is trained for --epochs from scratch at the budget, at widths
that are worth the same: methods "plain" (the whole family), "depth" and "structure". Names of proposals with + between them
(--changes) are trained on the family and on the depth that was found, to see what short trials should have chosen. The table has
accuracies on test samples that nothing was chosen by, and the search's FLOPs as a share of those of training for --run-epochs at
the budget. A network may be a chain of layers, "c3 p c3 p c3" (`tools.growth_designs.chain`), with --methods plain. A finished
search or training is a line of OUT/structures.jsonl and is not made again, so that pieces of different days add up; but for what
an older search found, where its code or its proposals have changed since.

    tools/bench_structure.py --data cifar10.npz --size 16 --train 10000 --network vgg11 --network resnet20 --budget 100k,2M \\
        --epochs 20 --out structures/
    tools/bench_structure.py --data cifar10.npz --size 16 --train 10000 --network vgg11 --network vgg19 --network resnet20 \\
        --network mobilenet --budget 100k,2M --budget 70k,5.2M --epochs 60 --seeds 3 --out structures/
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
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
from gngraph.errors import GnGraphError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.search import depth, proposals, structure
from gngraph.search.depth import at_budget, without
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.bench_growth import budget_named, shrunken
from tools.growth_designs import FAMILY, designed, family

console = Console(width=150)

STORE = "structures.jsonl"

UNSEARCHED = "plain"
"""The method that no search has a part in."""


def searches() -> str:
    """A digest of the code that searches, comments and layout aside: what another one found is none of its lines."""
    trees = (ast.parse(inspect.getsource(module)) for module in (structure, proposals, depth))
    return hashlib.sha256("".join(map(ast.dump, trees)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Setting:
    """What all lines of a table share.

    Attributes:
        data: the data set.
        start: size of the seeds as a share of the budget.
        run_epochs: of the run that searches, by which its trials are as long as they are; an eighth of them trains a seed.
        epochs, lr: of the trainings from scratch, along a cosine, and of the seeds.
        samples: of the judge split.
        device: what to compute on.
    """

    data: Data
    start: float
    run_epochs: int
    epochs: int
    lr: float | None
    samples: int
    device: str

    def problem(self, seed: int) -> Problem:
        """Data and seed."""
        count = self.samples
        return Problem(self.data, device=self.device, seed=seed, learn=count, judge=count, report=count)

    @property
    def options(self) -> TrainOptions:
        """How everything is trained."""
        return TrainOptions(lr=self.lr)

    def text(self, method: str) -> str:
        """What a line was made by; a search by no training from scratch, however long."""
        shape, count, epochs = self.data.input_shape, len(self.data.train), None if method == "search" else self.epochs
        return repr((self.data.name, shape, count, self.start, self.run_epochs, epochs, self.lr, self.samples))


@dataclass(frozen=True)
class Cell:
    """One family at one budget from one random seed."""

    network: str
    budget: Budget
    seed: int

    def record(self) -> dict[str, Any]:
        """The part of a line that says which it is."""
        return {"network": self.network, "budget": [self.budget.max_params, self.budget.max_flops], "seed": self.seed}


class Bench:
    """Lines that are there, and those that are still to be made."""

    def __init__(self, setting: Setting, out: Path) -> None:
        self.setting, self.path = setting, out / STORE
        out.mkdir(parents=True, exist_ok=True)
        kept = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.by = searches()
        self.lines = [line for line in map(json.loads, kept) if self._ours(line)]

    def line(self, cell: Cell, method: str) -> dict[str, Any]:
        """The line of a search or training, made if there is none."""
        known = next(
            (line for line in self.lines if line["method"] == method and cell.record().items() <= line.items()), None
        )
        if known is None:
            found = self._searched(cell) if method == "search" else self._trained(cell, method)
            by = {} if method == UNSEARCHED else {"by": self.by}
            known = {"of": self.setting.text(method), **by, "method": method, **cell.record(), **found}
            self.lines.append(known)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(known) + "\n")
            told = (
                f"{known['accuracy']:.4f}" if "accuracy" in known else f"{known['changes']}, {known['removed']} removed"
            )
            console.print(f"{cell.network} {cell.budget.text} seed {cell.seed} {method}: {told}", style="dim")
        return known

    def _ours(self, line: Mapping[str, Any]) -> bool:
        """Whether a line was made in this setting, and by the search of now or by none."""
        same = line["of"] == self.setting.text(line["method"])
        return bool(same and (line["method"] == UNSEARCHED or line.get("by") == self.by))

    def _searched(self, cell: Cell) -> dict[str, Any]:
        """The search for the depth, and on it that for the structure."""
        setting, problem, budget = self.setting, self.setting.problem(cell.seed), cell.budget
        seed = restarted(self._seed(cell), mixed(cell.seed, 1))
        epochs = max(1, setting.run_epochs // 8)
        seed = Trainer(problem, setting.options).train(seed, Stretch(epochs)).graph
        asked = (seed, AnalysisManager(problem), budget, setting.options, setting.run_epochs)
        deep = depth.searched(*asked)
        found = structure.searched(*asked, deep)
        of_depth = deep.samples * sum(trial.flops for trial in deep.trials)
        largest = max((*(trial.flops for trial in deep.trials), *(trial.flops for trial in found.trials)), default=1)
        whole = setting.run_epochs * len(problem.train) * largest
        return {
            "order": [layer.value for layer in deep.order],
            "depth": len(deep.removed),
            "removed": len(found.removed),
            "changes": list(found.changes),
            "tried": [trial.record() for trial in found.trials],
            "share": [of_depth / whole, (of_depth + found.flops) / whole],
        }

    def _seed(self, cell: Cell) -> Graph:
        """The network that is searched: a narrow MobileNetV2 has other skip connections than a wide one."""
        data, sides = self.setting.data, (cell.budget.max_params, cell.budget.max_flops)
        try:
            return designed(
                FAMILY, cell.network, data, Budget(*(side and int(side * self.setting.start) for side in sides))
            )
        except GnGraphError:  # its narrowest has more than that
            return family(cell.network, data, 1e-3)

    def _trained(self, cell: Cell, method: str) -> dict[str, Any]:
        """A design from scratch."""
        setting, problem = self.setting, self.setting.problem(cell.seed)
        if method == "structure":
            found = self.line(cell, "search")
            if not found["changes"] and found["removed"] == found["depth"]:
                return {key: self.line(cell, "depth")[key] for key in ("params", "flops", "accuracy")}
        graph = at_budget(self._design(cell, method), cell.budget, AnalysisManager(problem))
        size = cost(graph)
        if not cell.budget.allows(size):
            return {"params": size.params, "flops": size.flops, "accuracy": 0.0}
        start = restarted(graph, mixed(cell.seed, 1))
        trained = Trainer(problem.undivided, setting.options).train(start, Stretch(setting.epochs, "cosine")).graph
        return {"params": size.params, "flops": size.flops, "accuracy": evaluate(trained, problem, problem.test)[1]}

    def _design(self, cell: Cell, method: str) -> Graph:
        """The architecture of a method, at any widths."""
        if method == UNSEARCHED:
            return family(cell.network, self.setting.data, 0.25)
        found = self.line(cell, "search")
        name, _, own = method.partition(":")
        removed = {"family": 0, "structure": found["removed"]}.get(name, found["depth"])
        changes = found["changes"] if name == "structure" else own.split("+") if own else []
        graph = without(self._seed(cell), found["order"][:removed])
        for change in changes:
            steps = structure.restructured(graph, AnalysisManager(self.setting.problem(cell.seed)), change)
            graph = steps[-1].graph if steps else graph
        return graph


def table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracies of every family and budget, a row a method."""
    made = Table("network", "budget", "method", "params", "MFLOPs", "accuracy", "of each seed", "found", "search")
    cells = dict.fromkeys((line["network"], tuple(line["budget"])) for line in lines)
    for network, budget in cells:
        own = [line for line in lines if (line["network"], tuple(line["budget"])) == (network, budget)]
        searched = {line["seed"]: line for line in own if line["method"] == "search"}
        for method in dict.fromkeys(line["method"] for line in own if line["method"] != "search"):
            trained = [line for line in own if line["method"] == method]
            accuracies = [100 * line["accuracy"] for line in trained]
            of = [searched[line["seed"]] for line in trained if line["seed"] in searched and method != UNSEARCHED]
            found = "; ".join(_told(method, line) for line in of)
            shares = [line["share"][method != "depth"] for line in of]
            made.add_row(
                network, Budget(*budget).text, method, f"{median(line['params'] for line in trained):,}",
                f"{median(line['flops'] for line in trained) / 1e6:.2f}", f"{median(accuracies):.2f}",
                " ".join(f"{value:.2f}" for value in accuracies), found, f"{100 * max(shares):.1f} %" if shares else "",
            )  # fmt: skip
    return made


def _told(method: str, line: Mapping[str, Any]) -> str:
    removed = line["removed"] if method == "structure" else line["depth"]
    changes = line["changes"] if method == "structure" else ()
    return " + ".join([*changes, f"{removed} of {len(line['order'])} removed"])


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", required=True, help="data set by name or path")
@click.option("--download", is_flag=True, help="fetch the data set if it is missing")
@click.option("--size", default=0, help="average images down to this side")
@click.option("--train", default=0, help="training samples; default: all")
@click.option(
    "--network",
    "networks",
    multiple=True,
    default=("vgg11",),
    show_default=True,
    help="family of the zoo, or a chain of layers",
)
@click.option("--budget", "budgets", multiple=True, default=("100k,2M",), show_default=True, help="params,FLOPs")
@click.option("--methods", default="plain,depth,structure", show_default=True, help="with commas between them")
@click.option("--changes", default="", help="also train these: skips,skips+separable on the family and the depth found")
@click.option("--start", default=0.05, show_default=True, help="cost of the seed as a share of the budget")
@click.option("--run-epochs", default=60, show_default=True, help="of the run whose search it is")
@click.option("--epochs", default=60, show_default=True, help="of trainings from scratch")
@click.option("--lr", type=float, help="learning rate; default: the library's")
@click.option("--samples", default=512, show_default=True, help="of the judge split")
@click.option("--seeds", default=1, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the lines")
def main(
    networks: tuple[str, ...], budgets: tuple[str, ...], methods: str, changes: str, seeds: int, threads: int, out: Path,
    **given: Any,
) -> None:  # fmt: skip
    """Make what is missing, and print the table."""
    torch.set_num_threads(threads)
    missing = Download.IF_MISSING if given.pop("download") else Download.NEVER
    data = shrunken(load_data(given.pop("data"), download=missing), given.pop("size"), given.pop("train"))
    bench = Bench(Setting(data, **given), out)
    own = [f"{base}:{change}" for change in changes.split(",") if change for base in ("family", "depth")]
    for seed in range(seeds):
        for budget in budgets:
            for network in networks:
                cell = Cell(network, budget_named(budget, network, data), seed)
                for method in (*methods.split(","), *own):
                    bench.line(cell, method)
    console.print(table([line for line in bench.lines if line["seed"] < seeds]))


if __name__ == "__main__":
    main()
