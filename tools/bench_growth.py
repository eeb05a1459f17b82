"""Growth against what a user would have trained instead: one command a table (Tables 1 and 2 of arXiv 2411.05855 by options alone).

Four jobs. search: the best network for a budget, from a small seed. extend: a trained network made larger and trained on.
reshape: a trained network with its channels moved, at the same parameters and FLOPs. shrink: a trained network at fewer FLOPs.
All methods have the same data, order of samples, augmentation, optimiser, epochs and schedule, one cosine. Growth runs grow in
the share --growing of the epochs. The test samples are for the report alone.

gngraph's own ways and "fresh" come with more rows: METHOD:scratch, the same architecture from scratch for the same epochs,
METHOD:equal, from scratch for as many epochs as the growth run's training FLOPs pay for, and "gngraph" with gngraph:uniform, its
layers at uniform widths, from scratch, which says what of its gain is its depth. Plain designs come with
DESIGN:equal, from scratch for as many epochs as the training FLOPs of "gngraph" pay for. A finished run is a line of
OUT/runs.jsonl and is not made again, and an unfinished one goes on from OUT/unfinished, so that a table may be made in pieces:
after --minutes it ends with the epoch, search or analysis that goes on. Training FLOPs count 3 forward passes a step,
that of networks on trial for their depth included, and the convolutions and matrix products of an analysis as they come;
decompositions of matrices are not counted, nor the forward passes of the seed that rank its layers (less than 1 %).

    tools/bench_growth.py search --data cifar10.npz --size 16 --train 5000 --network vgg11 --budget 100k \\
        --epochs 12 --methods family,uniform,gngraph,fresh --out runs/
    tools/bench_growth.py search --data cifar100 --network vgg19 --budget width=0.25 --budget 2M,200M --epochs 200 --seeds 3 \\
            --rounds 8 --samples 4096 --device cuda --workers 8 --out runs/
    tools/bench_growth.py shrink --data cifar10 --network resnet56 --budget width=1 --epochs 200 --tuning 40 --out runs/
    tools/bench_growth.py shrink --data cifar10.npz --size 16 --train 10000 --network vgg11 --design uniform --epochs 60 \\
        --params-left 0.5 --out runs/
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.cost import Budget, cost
from gngraph.data import ArrayDataset, CropFlip, Data, Download, from_arrays, load_data
from gngraph.errors import GnGraphError
from gngraph.ir import Graph
from gngraph.options.runs import PERTURB, Final
from gngraph.options.values import parse_count
from gngraph.running.problem import Problem
from gngraph.search.designs import widths_within
from tools.growth_designs import DESIGNS, SHAPES, family, to_widths
from tools.growth_jobs import JOBS, REPEATED
from tools.growth_pieces import ENDLESS, Piece, PieceOver
from tools.growth_report import draw, table, write_csv
from tools.growth_runs import Run, Settings, Store, identity, key_of, outcome

console = Console(width=160)

DEFAULTS: Mapping[str, str] = {
    "search": "family,uniform,pyramid,soft-pyramid,gngraph,paper,joint-no-fill,random-split,net2net,firefly,gradmax,tiny,fresh",
    "extend": "same,larger,gngraph,exact,random-split,net2net,fresh",
    "reshape": "same,gngraph,exact,immediate,towards-uniform",
    "shrink": "same,smaller,narrower,gngraph,gn-prune,gn-merge,gn-prune-rebuilt,"
    "tp-magnitude,tp-taylor,tp-random,tp-magnitude-uniform,tp-taylor-uniform,tp-random-uniform",
}
PAYER = "gngraph"
"""The method whose training FLOPs plain designs may spend in their rows "equal"."""


def shrunken(data: Data, size: int, train: int) -> Data:
    """`data` with its images averaged down to `size` (0: as they are), and the first `train` training samples (0: all).

    Training samples that are left over are tested on as well: the more there are, the less an accuracy depends on which.

    Raises:
        click.UsageError: the data is not of images in memory whose sides are multiples of `size`, or has too few samples.
    """
    if not size and not train:
        return data
    parts = [part for part in (data.train, data.test) if isinstance(part, ArrayDataset)]
    if len(parts) < 2:
        raise click.UsageError(f"--size and --train are for data held in memory, but '{data.name}' is read from files")
    x, y = (part.raw for part in parts), [part.labels for part in parts]
    scale = float(data.preprocess.record()["scale"])
    images = [part.float() / scale for part in x]
    if size:
        height, width = images[0].shape[2:] if images[0].dim() == 4 else (1, 1)
        if height % size or width % size:
            raise click.UsageError(
                f"images of {height}x{width} cannot be averaged down to {size}x{size}: it must divide"
            )
        images = [torch.nn.functional.avg_pool2d(part, (height // size, width // size)) for part in images]
    if train > len(y[0]):
        raise click.UsageError(f"--train {train} is more than the {len(y[0])} training samples of '{data.name}'")
    count = train or len(y[0])
    tested, asked = (torch.cat([part[0][count:], part[1]]) for part in (images, y))
    arrays = (images[0][:count].numpy(), y[0][:count].numpy(), tested.numpy(), asked.numpy())
    made = from_arrays(data.name, *arrays, classes=data.classes or None)
    padding = max(1, made.input_shape[-1] // 8)
    return replace(made, augment=CropFlip(padding) if isinstance(data.augment, CropFlip) else data.augment)


def budget_named(text: str, network: str, data: Data) -> Budget:
    """A budget from "100k", "100k,2M" (params and FLOPs), ",2M" (FLOPs alone) or "width=0.25" (both, as the family has there).

    Raises:
        click.UsageError: it is none of these.
    """
    if text.startswith("width="):
        try:
            size = cost(family(network, data, float(text.removeprefix("width="))))
        except ValueError:
            raise click.UsageError(f"budget '{text}' names no width: write width=0.25") from None
        return Budget(size.params, size.flops)
    sides = [parse_count(side) if side.strip() else None for side in text.split(",")]
    if len(sides) > 2 or not any(sides):
        raise click.UsageError(f"budget '{text}' is none: write params as 100k, with FLOPs 100k,2M, or width=0.25")
    return Budget(*sides)


def digest(values: Mapping[str, Any]) -> str:
    """A short name for a run, for files."""
    return hashlib.sha256(key_of(values).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cell:
    """A row of the table for one seed and budget."""

    method: str
    seed: int
    budget: Budget


class Bench:
    """A table being made.

    Args:
        settings: what all of its runs share.
        data: the data set.
        device: what to compute on.
        out: folder of networks, of what is unfinished, and of the pictures.
        piece: of the work, in which no more is begun when it is over.
        lines: file of the finished runs; None: one in `out`.
    """

    def __init__(
        self, settings: Settings, data: Data, device: str, out: Path, piece: Piece = ENDLESS, lines: Path | None = None
    ) -> None:
        self.settings, self.data, self.device, self.out, self.piece = settings, data, device, out, piece
        self.store = Store(lines or out / "runs.jsonl")

    def run(self, cell: Cell) -> dict[str, Any]:
        """The line of a run, made if there is none.

        Raises:
            PieceOver: there was no time for it.
        """
        samples = self.settings.samples
        problem = Problem(
            self.data, device=self.device, seed=cell.seed, learn=samples, judge=samples, report=samples,
            batch_size=self.settings.batch_size,
        )  # fmt: skip
        line = identity(cell.method, problem, cell.budget, self.settings)
        known = self.store.find(key_of(line))
        if known is None:
            base = f"base-{digest({**line, 'method': 'base', 'settings': self.settings.of_training()})}"
            self.piece.require()
            run = Run(self.settings, problem, cell.budget, self.out, base, digest(line), self.piece)
            graph = self._network(run, cell)
            run.keep(run.name, graph)
            known = line | outcome(run, graph)
            self.store.add(known)
            console.print(told(cell, known))
        return known

    def _network(self, run: Run, cell: Cell) -> Graph:
        name, _, repeat = cell.method.partition(":")
        if not repeat:
            return JOBS[self.settings.job][name](run)
        paying = self.run(replace(cell, method=payer_of(cell.method)))
        graph = run.design(name) if name in DESIGNS else self._architecture(run, paying)
        if repeat in SHAPES:
            graph = run.reset(to_widths(graph, widths_within(graph, SHAPES[repeat], cell.budget)))
        paid = max(1, round(paying["training_flops"] / run.epoch_flops(graph)))
        return run.scratch(graph, paid if repeat == "equal" else None)

    def _architecture(self, run: Run, line: dict[str, Any]) -> Graph:
        """The network of a finished run, freshly initialised."""
        made = run.kept(digest(line))
        if made is None:
            raise click.UsageError(
                f"the network of '{line['method']}' is missing below {self.out}/networks; name another --out"
            )
        return run.reset(made)

    def report(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the CSV and the picture of what there is."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_csv(lines, self.out / "growth.csv")
        draw(lines, self.title).savefig(self.out / "growth.png", dpi=120)

    @property
    def title(self) -> str:
        """What the table is of."""
        s, shape = self.settings, "x".join(map(str, self.data.input_shape))
        count = len(self.data.train)
        return f"{s.job}: {s.network} on {Path(s.data).stem} {shape}, {count:,} training samples, {s.epochs} epochs"


def payer_of(method: str) -> str:
    """The method whose training FLOPs, and for gngraph's own ways also whose architecture, a repeated row takes."""
    name = method.partition(":")[0]
    return PAYER if name in DESIGNS else name


def waits_for(job: str, cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell that has to be finished before another: what pays for it, or what trains the network that all methods rework."""
    if ":" in cell.method:
        return replace(cell, method=payer_of(cell.method))
    if job == "search":
        return None
    first = next(other for other in cells if (other.seed, other.budget) == (cell.seed, cell.budget))
    return None if first == cell else first


def told(cell: Cell, line: Mapping[str, Any]) -> str:
    """A finished run in one line."""
    return (
        f"{line['budget']}, seed {cell.seed}, {cell.method}: accuracy {line['accuracy']:.4f}, {line['params']:,} params, "
        f"{line['flops']:,} FLOPs, {line['seconds']:.0f} s"
    )


_bench: Bench  # of the process, or of the only thread


def _open(bench: Bench, threads: int) -> None:
    global _bench
    _bench = bench
    torch.set_num_threads(threads)


Outcome = dict[str, Any] | GnGraphError | PieceOver
"""The line of a run, or why there is none."""


def _attempt(cell: Cell) -> Outcome:
    try:
        return _bench.run(cell)
    except (GnGraphError, PieceOver) as error:
        return error


def finished(bench: Bench, cells: Sequence[Cell], workers: int, threads: int) -> Iterator[tuple[Cell, Outcome]]:
    """Every cell with its line, or with what went wrong, as they come; each starts as soon as what it waits for is there.

    Args:
        bench: the table.
        cells: its rows, a seed and budget each.
        workers: runs at once, each in a process of its own; 1: in this one.
        threads: of the CPU, for each run.
    """
    executor: Executor
    if workers == 1:
        executor = ThreadPoolExecutor(1, initializer=_open, initargs=(bench, threads))
    else:
        context = get_context("spawn")
        executor = ProcessPoolExecutor(workers, context, initializer=_open, initargs=(bench, threads))
    waiting, running, done = list(cells), dict[Future[Outcome], Cell](), set[Cell]()
    with executor:
        while waiting or running:
            for cell in [c for c in waiting if waits_for(bench.settings.job, c, cells) in (None, *done)]:
                waiting.remove(cell)
                running[executor.submit(_attempt, cell)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                done.add(cell)
                yield cell, future.result()


def lines_of(bench: Bench, cells: Sequence[Cell], workers: int, threads: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of a table in the order of its cells, and what failed; what there is is drawn after every run.

    A run that fails is told of, and the rest goes on; one for which there was no time is neither.
    """
    found: dict[Cell, dict[str, Any]] = {}
    failed = []
    for cell, line in finished(bench, cells, workers, threads):
        if isinstance(line, PieceOver):
            continue
        if isinstance(line, GnGraphError):
            failed.append(f"{cell.method}, seed {cell.seed}: {line}")
            console.print(failed[-1], style="red")
        else:
            found[cell] = line
            bench.report([found[c] for c in cells if c in found])
    return [found[c] for c in cells if c in found], failed


def require_methods(job: str, methods: Sequence[str]) -> None:
    """Refuse methods that there are not, and repeated rows without the method that pays for them.

    Raises:
        click.UsageError: there is one.
    """
    known = JOBS[job]
    for method in methods:
        if method.partition(":")[0] not in known:
            raise click.UsageError(f"job '{job}' has no method '{method}': choose among {', '.join(known)}")
        if ":" in method and payer_of(method) not in methods:
            raise click.UsageError(f"'{method}' needs the row '{payer_of(method)}'")


def with_repeats(job: str, methods: Sequence[str]) -> list[str]:
    """Methods, each followed by what its network is compared with."""
    require_methods(job, methods)
    repeats = {m: r for m, r in REPEATED.get(job, {}).items() if m not in DESIGNS or PAYER in methods}
    return [name for m in methods for name in (m, *(f"{m}:{r}" for r in repeats.get(m, ())))]


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.argument("job", type=click.Choice(list(JOBS)))
@click.option("--data", required=True, help="data set by name or path")
@click.option("--download", is_flag=True, help="fetch the data set if it is missing")
@click.option("--size", default=0, help="average images down to this side")
@click.option("--train", default=0, help="training samples; default: all")
@click.option("--network", default="vgg11", show_default=True, help="family of the zoo, or torchvision:NAME")
@click.option("--budget", "budgets", multiple=True, default=("100k",), show_default=True,
              help="params, params,FLOPs, or width=W of the family; of the trained network in the other jobs")  # fmt: skip
@click.option("--methods", help="by name, with commas; 'all' for every one, ablations included")
@click.option("--epochs", default=30, show_default=True)
@click.option("--tuning", default=15, show_default=True, help="epochs after the rewrite of a trained network")
@click.option("--rounds", default=3, show_default=True)
@click.option("--growing", default=0.4, show_default=True, help="share of the epochs before the last rewrite")
@click.option("--final", type=click.Choice(get_args(Final)), default="cycle", show_default=True)
@click.option(
    "--perturb", type=float, help="share of new weights mixed in after a rewrite; default: the library's for the job"
)
@click.option("--design", type=click.Choice(DESIGNS), default="family", show_default=True,
              help="of the seed of a search, and of the trained network in the other jobs")  # fmt: skip
@click.option("--start", default=0.05, show_default=True, help="cost of the seed as a share of the budget")
@click.option("--extension", default=0.5, show_default=True)
@click.option("--shrinkage", default=0.5, show_default=True, help="share of the FLOPs that shrink leaves")
@click.option("--params-left", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="share of the parameters that shrink leaves")  # fmt: skip
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True)
@click.option("--lr", type=float, help="learning rate; default: the library's")
@click.option("--tuning-lr", type=float, help="learning rate that tuning begins at; default: --lr")
@click.option("--weight-decay", default=5e-4, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--samples", default=2048, show_default=True, help="of each split of an analysis")
@click.option("--seeds", default=1, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU, for each run")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="runs at once, each in a process of its own: small networks leave a GPU idle")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0), help="end after so many, and go on another time")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    job: str, data: str, download: bool, size: int, train: int, network: str, budgets: tuple[str, ...],
    methods: str | None, epochs: int, tuning: int, rounds: int, growing: float, final: Final, perturb: float | None, design: str,
    start: float, extension: float, shrinkage: float, params_left: float, optimizer: str, lr: float | None,
    tuning_lr: float | None, weight_decay: float, batch: int, samples: int, seeds: int, device: str, threads: int, workers: int,
    minutes: float | None, out: Path,
) -> None:  # fmt: skip
    """Make a table; see the module."""
    share = (PERTURB if job == "search" else 0.0) if perturb is None else perturb
    settings = Settings(
        job, network, data, size, train, epochs, tuning, rounds, growing, final, share, design, start, extension, shrinkage,
        params_left, optimizer, lr, tuning_lr, weight_decay, batch, samples,
    )  # fmt: skip
    if rounds < 1 or not 0 < start <= 1 or rounds * settings.round_epochs > epochs:
        raise click.UsageError(f"{rounds} rounds do not fit {epochs} epochs, or --start {start} is no share of 1")
    names = list(JOBS[job]) if methods == "all" else (methods or DEFAULTS[job]).split(",")
    wanted = with_repeats(job, names)
    try:
        source = shrunken(load_data(data, download=Download.IF_MISSING if download else Download.NEVER), size, train)
        bench = Bench(settings, source, device, out, Piece.of(minutes))
        limits = [budget_named(text, network, source) for text in budgets]
        cells = [Cell(method, seed, limit) for seed in range(seeds) for limit in limits for method in wanted]
        lines, failed = lines_of(bench, cells, workers, threads)
    except GnGraphError as error:
        raise click.ClickException(str(error)) from error
    if len(lines) + len(failed) < len(cells):
        console.print(f"{len(cells) - len(lines) - len(failed)} of {len(cells)} runs are left: give the command again")
    if lines:
        console.print(table(lines, bench.title))
    console.print(f"{out}/runs.jsonl, {out}/growth.csv, {out}/growth.png")
    if failed:
        raise click.ClickException("rows are missing from the table: " + "; ".join(failed))


if __name__ == "__main__":
    main()
