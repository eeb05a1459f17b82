"""Shows gngraph at work: a small network is made, trained a little, grown in rounds under a budget, and exported.

Everything runs on scikit-learn's digits (1,797 pictures of 8x8), which are part of the installation. On 2 CPU cores it
takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.table import Table

from gngraph import api
from gngraph.analysis.cost import parse_count
from gngraph.analysis.manager import Problem
from gngraph.cli.networks import describe_onnx
from gngraph.cli.progress import EpochLines, RunProgress, percent
from gngraph.cli.tables import console
from gngraph.convert.from_torch import from_torch
from gngraph.data import load_data
from gngraph.errors import GnGraphError
from gngraph.growth.evaluation import evaluate
from gngraph.growth.loop import GrowthResult, grow
from gngraph.growth.options import Stretch, TrainOptions
from gngraph.growth.training import Trainer
from gngraph.ir import Graph
from gngraph.zoo import build_seed

OUT = console()
STEPS = 5


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="resnet20", help="seed network: resnet20, vgg11, ... (default resnet20)")
    parser.add_argument("--width", type=float, default=0.25, help="width multiplier of the seed (default 0.25)")
    parser.add_argument("--max-params", default="60k", help="budget (default 60k)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of growth (default 4)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs before each rewrite (default 3)")
    parser.add_argument("--final-epochs", type=int, default=10, help="epochs after the last rewrite (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: a new one, demo-run, demo-run-2, ...)")
    return parser.parse_args()


def step(number: int, text: str) -> None:
    """The heading of one step."""
    OUT.print(f"\n[bold][{number}/{STEPS}] {text}[/bold]".replace(f"[{number}/", f"\\[{number}/"))


def new_folder() -> Path:
    """The first of demo-run, demo-run-2, ... that does not exist."""
    names = (Path("demo-run" if number == 1 else f"demo-run-{number}") for number in range(1, 10_000))
    return next(path for path in names if not path.exists())


def trained_seed(graph: Graph, problem: Problem, training: TrainOptions, epochs: int) -> tuple[Graph, float | None]:
    """The seed after a little training, and its test accuracy."""
    with EpochLines(epochs) as lines:
        trained = Trainer(problem, training).train(graph, Stretch(epochs, "constant"), None, lines.finished).graph
    return trained, evaluate(trained, problem, problem.test)[1]


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
    """The five steps."""
    chosen = options()
    started = time.monotonic()
    torch.set_num_threads(chosen.threads)
    folder = chosen.out or new_folder()
    api.require_free_folder(folder)
    budget = parse_count(chosen.max_params)
    data = load_data("digits")
    problem = Problem(data, seed=chosen.seed)
    training = TrainOptions(batch_size=64)

    step(1, f"a seed: {chosen.family} at width {chosen.width:g}")
    module = build_seed(
        chosen.family,
        width=chosen.width,
        classes=data.outputs,
        input_shape=data.input_shape,
        seed=chosen.seed,
    )
    seed = from_torch(module, api.example(data.input_shape))
    OUT.print(f"{seed.num_params():,} parameters; the budget is {budget:,}; data: {len(data.train)} training pictures")

    step(2, "training the seed a little")
    trained, before = trained_seed(seed, problem, training, chosen.epochs)
    OUT.print(percent("test accuracy before growth: ", before))

    step(3, f"growing over {chosen.rounds} rounds")
    with RunProgress(chosen.rounds, chosen.epochs, chosen.final_epochs) as progress:
        result = grow(
            trained,
            problem,
            max_params=budget,
            rounds=chosen.rounds,
            epochs=chosen.epochs,
            final_epochs=chosen.final_epochs,
            out=folder,
            observer=progress,
            train=training,
        )
    print_rounds(result)

    step(4, "what changed from the seed to the grown network")
    OUT.print(api.diff(trained, result.graph, lineage=result.lineage).render(), markup=False, soft_wrap=True)

    step(5, "exporting: archive, Python source, ONNX checked in onnxruntime, pictures")
    files = api.write_run(result, problem, folder)
    OUT.print(describe_onnx(files.onnx), markup=False, soft_wrap=True)
    OUT.print(f"files: {', '.join(sorted(path.name for path in folder.iterdir()))}")

    after = result.history[-1]["accuracy"]
    size = result.graph.num_params()
    OUT.print(f"\n[bold]{percent('test accuracy ', before)} before, {percent('', after)} after growth[/bold]")
    OUT.print(f"{seed.num_params():,} parameters before, {size:,} after, of {budget:,} allowed")
    OUT.print(f"all of it lies in {folder.resolve()} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    try:
        main()
    except GnGraphError as error:
        sys.exit(f"demo: error: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
