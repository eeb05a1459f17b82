"""Commands that learn from data: train, score, grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gngraph.cli.options import (
    COUNT,
    DataOptions,
    ModelOptions,
    TrainingOptions,
    data_options,
    describe_setting,
    json_option,
    model_argument,
    model_options,
    open_both,
    open_run,
    output_option,
    run_options,
    training_options,
)

if TYPE_CHECKING:
    from gngraph.training.options import Depth, Final

F = TypeVar("F", bound=Callable[..., Any])


def kinds_option(default: str) -> Callable[[F], F]:
    """Which kinds of candidates are scored."""
    return click.option(
        "--kinds",
        default=default,
        show_default=True,
        callback=lambda _, __, value: tuple(part.strip() for part in value.split(",")),
        help="Kinds of candidates to score: split, prune, new, merge, insert.",
    )


curvature_option = click.option(
    "--curvature", default="mc", show_default=True, help='Model of the loss: mc, "mc{draws=4}", exact or rank1.'
)


@click.command(short_help="Train a network.")
@model_argument
@model_options
@data_options
@training_options
@click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="Passes over the training set.")
@output_option
def train(
    model: str, how: ModelOptions, what: DataOptions, training: TrainingOptions, epochs: int, output: Path
) -> None:
    """Train MODEL with a learning rate that falls to 0 along a cosine."""
    from gngraph.cli.progress import EpochLines, percent
    from gngraph.files.archive import save
    from gngraph.running.evaluation import evaluate
    from gngraph.training.options import Stretch
    from gngraph.training.training import Trainer

    options = training.build()
    graph, problem = open_both(model, how, what)
    click.echo(describe_setting(graph, problem))
    with EpochLines(epochs) as lines:
        trained = Trainer(problem, options).train(
            graph, Stretch(epochs, "cosine", options.warmup), None, lines.finished
        )
    save(trained.graph, output)
    loss, accuracy = evaluate(trained.graph, problem, problem.test)
    click.echo(f"{output}: test loss {loss:.4f}{percent(', test accuracy ', accuracy)}")


@click.command(short_help="Predict what splitting and pruning each channel would do.")
@model_argument
@model_options
@data_options
@curvature_option
@kinds_option("split,prune")
@click.option("--looks", type=click.IntRange(0), default=32, show_default=True,
              help="Candidates with the greatest second-order change whose true loss is measured too: a forward pass over "
              "512 samples each.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Candidates to show.")
@click.option("--all", "show_all", is_flag=True, help="Show every candidate.")
@json_option
def score(
    model: str,
    how: ModelOptions,
    what: DataOptions,
    curvature: str,
    kinds: tuple[str, ...],
    looks: int,
    top: int,
    show_all: bool,
    as_json: bool,
) -> None:
    """Score every candidate of MODEL by the Gauss-Newton model of the loss: predicted gain, standard error, cost."""
    from gngraph.analysis.manager import AnalysisManager
    from gngraph.cli.tables import candidate_rows, console, print_candidates, print_json
    from gngraph.scoring.gauss_newton import GaussNewton

    graph, problem = open_both(model, how, what)
    with console(stderr=True).status(f"scoring {graph.name}"):  # nothing where that is no terminal
        scores = AnalysisManager(problem).get(GaussNewton(curvature, looks=looks, kinds=kinds), graph)
    rows = candidate_rows(scores, None if show_all else top)
    if as_json:
        print_json({"curvature": curvature, "candidates": rows, "of": len(scores.candidates), "notes": scores.notes})
    else:
        print_candidates(rows, len(scores.candidates), scores.notes)


@click.command(short_help="Grow a network up to a budget.")
@model_argument
@model_options
@data_options
@training_options
@click.option("--max-params", type=COUNT, help="Largest number of parameters, such as 500k.")
@click.option(
    "--max-flops", type=COUNT, help="Largest number of FLOPs a sample, such as 40M; a multiply-add counts as 2."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Number of rewrites.")
@click.option("--epochs", type=click.IntRange(0), default=4, show_default=True, help="Epochs before each rewrite.")
@click.option("--final-epochs", type=click.IntRange(0), default=18, show_default=True, help="Epochs after the last.")
@click.option("--final", type=click.Choice(["continue", "cycle", "retrain"]), default="cycle", show_default=True,
              help="One cosine of the learning rate over the whole run; a constant rate, then a cosine after the last "
              "rewrite; or the same with the grown architecture trained from new initial weights.")  # fmt: skip
@click.option("--perturb", type=click.FloatRange(0, 1), default=0.3, show_default=True,
              help="Share of new initial weights mixed in after every rewrite, without which a network that was trained while "
              "it was small learns less; 0 keeps what a pretrained network knows.")  # fmt: skip
@click.option("--depth", type=click.Choice(["search", "keep"]), default="search", show_default=True,
              help="Remove those layers, before the first rewrite, without which short trainings at the budget come "
              "out better; or keep all.")  # fmt: skip
@curvature_option
@kinds_option("split,prune")
@click.option("--selection", type=click.Choice(["joint", "additive"]), default="joint", show_default=True)
@click.option("--allocation",
              type=click.Choice(["capacity", "none", "equal-worths", "uniform", "proportional", "lookahead"]),
              default="capacity", show_default=True,
              help="How wide the layers are to be: by what channels are measured to be worth (capacity) or another rule, or by "
              "the rule that trains best in a short trial at the full budget (lookahead), which costs up to 8 more "
              "epochs.")  # fmt: skip
@run_options
def grow(
    model: str,
    how: ModelOptions,
    what: DataOptions,
    training: TrainingOptions,
    max_params: int | None,
    max_flops: int | None,
    rounds: int,
    epochs: int,
    final_epochs: int,
    final: Final,
    perturb: float,
    depth: Depth,
    curvature: str,
    kinds: tuple[str, ...],
    selection: str,
    allocation: str,
    output: Path,
    force: bool,
) -> None:
    """Grow MODEL on data D in rounds of training, analysis and rewriting; the budget is never exceeded.

    The folder then holds seed.gng, model.gng, model.py with weights.safetensors, model.onnx, history.jsonl and pictures.
    """
    from gngraph import api
    from gngraph.cli.networks import describe_run
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.loop import grow as grow_graph

    if max_params is None and max_flops is None:
        raise click.UsageError("name a budget: --max-params 500k, --max-flops 40M, or both")
    options = training.build()
    graph, problem = open_run(model, how, what, output, force)
    if perturb:
        click.echo(
            f"after every rewrite {perturb:.0%} new initial weights are mixed in; to keep what a pretrained network knows: "
            f"--perturb 0 --depth keep, or gngraph extend"
        )
    with RunProgress(rounds, epochs, final_epochs) as progress:
        result = grow_graph(
            graph,
            problem,
            max_params=max_params,
            max_flops=max_flops,
            rounds=rounds,
            epochs=epochs,
            final_epochs=final_epochs,
            final=final,
            perturb=perturb,
            depth=depth,
            curvature=curvature,
            kinds=kinds,
            selection=selection,
            allocation=allocation,
            out=output,
            observer=progress,
            train=options,
        )
        progress.exporting()
        files = api.write_run(result, problem, output)
    click.echo(describe_run(files, output))
