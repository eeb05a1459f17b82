"""Shows gngraph at work: a small network is made, trained a little, grown in rounds under a budget, and exported.

Everything runs on scikit-learn's digits (1,797 pictures of 8x8), which are part of the installation. On 2 CPU cores it
takes about a minute and a half.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph import api
from gngraph.analysis.diff import diff
from gngraph.cli.deploying import describe_onnx
from gngraph.cli.progress import EpochLines, RunProgress
from gngraph.cli.tables import console
from gngraph.data import load_data
from gngraph.errors import GnGraphError
from gngraph.growth.comparison import trained_beside
from gngraph.growth.jobs import JOBS
from gngraph.growth.loop import grow_by
from gngraph.growth.result import GrowthResult
from gngraph.growth.run_lock import require_free_folder
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ir.inputs import example
from gngraph.options import GrowOptions, TrainOptions
from gngraph.options.runs import PERTURB
from gngraph.options.values import parse_count
from gngraph.report.words import comparison_told, percent
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.zoo import build_seed

OUT = console()
STEPS = 6
TRAINING = TrainOptions(batch_size=64)


def command_line() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="resnet20", help="seed network: resnet20, vgg11, ... (default resnet20)")
    parser.add_argument("--width", type=float, default=0.0625, help="width multiplier of the seed (default 0.0625)")
    parser.add_argument("--max-params", default="25k", help="budget (default 25k)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of growth (default 4)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs before each rewrite (default 2)")
    parser.add_argument("--final-epochs", type=int, default=10, help="epochs after the last rewrite (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    # Networks this small gain nothing from a second thread, and lose much where other programs want the cores too.
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: a new one, demo-run, demo-run-2, ...)")
    return parser.parse_args()


def step(number: int, text: str) -> None:
    """The heading of one step."""
    OUT.print(f"\n[{number}/{STEPS}] {text}", style="bold", markup=False)


def new_folder() -> Path:
    """The first of demo-run, demo-run-2, ... that does not exist."""
    names = (Path("demo-run" if number == 1 else f"demo-run-{number}") for number in range(1, 10_000))
    return next(path for path in names if not path.exists())


def train(graph: Graph, problem: Problem, stretch: Stretch) -> tuple[Graph, float]:
    """The graph after a stretch of training, and its test accuracy."""
    with EpochLines(stretch.epochs) as lines:
        trained = Trainer(problem, TRAINING).train(graph, stretch, None, lines.finished).graph
    accuracy = evaluate(trained, problem, problem.test)[1]
    assert accuracy is not None  # digits have classes
    return trained, accuracy


def make_seed(chosen: argparse.Namespace, problem: Problem) -> Graph:
    """An untrained seed for the problem's data."""
    data = problem.data
    sizes = {"width": chosen.width, "classes": data.outputs, "input_shape": data.input_shape}
    return from_torch(build_seed(chosen.family, seed=chosen.seed, **sizes), example(data.input_shape))


def options_of(chosen: argparse.Namespace, budget: int) -> GrowOptions:
    """How the seed grows."""
    return GrowOptions(
        max_params=budget,
        rounds=chosen.rounds,
        epochs=chosen.epochs,
        final_epochs=chosen.final_epochs,
        # the seed was trained a little to show what it can do; as a trained network it would keep its layers and weights
        perturb=PERTURB,
        depth="search",
        compare="uniform",
        train=TRAINING,
    )


def grow_seed(options: GrowOptions, seed: Graph, problem: Problem, folder: Path) -> GrowthResult:
    """The growth run, with its progress; then the plain design of the grown size is trained for as long."""
    with RunProgress(options) as progress:
        return grow_by(JOBS["grow"].task(options, seed), seed, problem, out=folder, observer=progress)


def print_rounds(result: GrowthResult) -> None:
    """A table of the rounds: parameters against the budget, predicted against actual change of the loss."""
    table = Table(header_style="bold")
    titles = ("round", "parameters", "of the budget", "predicted loss change", "actual", "test accuracy", "seconds")
    for title in titles:
        table.add_column(title, justify="right")
    for record in result.history:
        grew = record["kind"] == "round"
        name = str(record["round"]) if grew else "final training"
        change = f"{record['predicted']:+.4f} ± {record['predicted_error']:.4f}" if grew else ""
        actual = f"{record['actual']:+.4f}" if grew else ""
        share = f"{100 * record['params'] / record['budget']['params']:.1f} %"
        seconds = f"{sum(record['seconds'].values()):.1f}"
        table.add_row(name, f"{record['params']:,}", share, change, actual, percent("", record["accuracy"]), seconds)
    OUT.print(table)
    OUT.print("Both changes are on samples that neither the splits nor the selection were fitted to.")


def main() -> None:
    """The six steps."""
    chosen = command_line()
    started = time.monotonic()
    torch.set_num_threads(chosen.threads)
    folder = chosen.out or new_folder()
    require_free_folder(folder)
    budget = parse_count(chosen.max_params)
    problem = Problem(load_data("digits"), seed=chosen.seed)

    step(1, f"a seed: {chosen.family} at width {chosen.width:g}, trained a little on digits")
    untrained = make_seed(chosen, problem)
    seed, before = train(untrained, problem, Stretch(chosen.epochs, "constant"))
    OUT.print(f"{seed.num_params():,} parameters, test accuracy {100 * before:.2f} %; the budget is {budget:,}")

    step(2, f"growing it over {chosen.rounds} rounds")
    options = options_of(chosen, budget)
    result = grow_seed(options, seed, problem, folder)
    print_rounds(result)

    step(3, "what changed from the seed to the grown network")
    OUT.print(diff(seed, result.graph, lineage=result.lineage).render(), markup=False, soft_wrap=True)

    step(
        4,
        f"for comparison, trained for {options.whole} epochs too: the plain design of the grown size, and the seed as it was",
    )
    beside = [*result.comparison, trained_beside("seed, trained as long as the run", untrained, problem, options)]
    for line in comparison_told(beside, result.history[-1]):
        OUT.print(line, markup=False, soft_wrap=True)
    result = replace(result, comparison=beside)

    step(5, "exporting: archive, Python source, ONNX checked in onnxruntime, report (up to a minute)")
    files = api.write_run(result, problem, folder)
    OUT.print(describe_onnx(files.onnx), markup=False, soft_wrap=True)

    step(6, "the result")
    after, size = result.history[-1]["accuracy"], result.graph.num_params()
    table = Table(header_style="bold")
    for title in ("", "parameters", "test accuracy"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row("seed, trained a little", f"{seed.num_params():,}", percent("", before))
    for record in beside:
        table.add_row(record["name"], f"{record['params']:,}", percent("", record["accuracy"]))
    table.add_row(f"grown network (budget {budget:,})", f"{size:,}", percent("", after), style="bold")
    OUT.print(table)
    OUT.print(f"{folder.resolve()} holds {', '.join(sorted(path.name for path in folder.iterdir()))}", soft_wrap=True)
    OUT.print(
        f"{time.monotonic() - started:.0f} seconds in all; open the report in a browser: {files.report.resolve().as_uri()}"
    )


if __name__ == "__main__":
    try:
        main()
    except GnGraphError as error:
        sys.exit(f"demo: error: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
