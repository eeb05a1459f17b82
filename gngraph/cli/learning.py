"""Commands that run data through a network and leave its architecture as it is: train, evaluate, score."""

from __future__ import annotations

import math
from pathlib import Path

import click

from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    data_options,
    describe_setting,
    json_option,
    model_argument,
    model_options,
    open_both,
    output_option,
    training_options,
)
from gngraph.cli.parameters import GroupedCommand, gathered
from gngraph.cli.processes import together
from gngraph.options import ScoreOptions, TrainOptions


@click.command(cls=GroupedCommand, short_help="Train a network.")
@model_argument
@model_options
@data_options
@training_options
@click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="Passes over the training set.")
@output_option
@together()
def train(model: str, how: ModelOptions, what: DataOptions, training: TrainOptions, epochs: int, output: Path) -> None:
    """Train MODEL with a learning rate that falls to 0 along a cosine."""
    from gngraph.cli.progress import EpochLines
    from gngraph.files.archive import save
    from gngraph.growth.run_folder import archived
    from gngraph.ranks import here
    from gngraph.report.words import percent
    from gngraph.running.finite import standing
    from gngraph.running.problem import inputs_of
    from gngraph.search.chance import may_know
    from gngraph.training.stretch import Stretch
    from gngraph.training.training import Trainer
    from gngraph.training.units import units_of

    graph, problem = open_both(model, how, what)
    inputs = inputs_of(problem, not may_know(graph, problem))
    click.echo(describe_setting(graph, problem))
    if (units := units_of(graph, problem).text) is not None:
        click.echo(f"note: {units}")
    with EpochLines(epochs) as lines:
        stretch = Stretch(epochs, "cosine", training.warmup)
        trained = Trainer(problem, training).train(graph, stretch, None, lines.finished)
    here().only_first(lambda: save(trained.graph, output, history=archived([], {}, inputs)))
    found = standing(trained.graph, problem)
    if found.note is not None:
        click.echo(f"note: {found.note}")
    accuracy = percent(f", {problem.tested} accuracy ", found.accuracy)
    click.echo(f"{output}: {problem.tested} loss {found.loss:.4f}{accuracy}")


@click.command(cls=GroupedCommand, short_help="Measure loss and accuracy of a network.")
@model_argument
@model_options
@data_options
@json_option
@together()
def evaluate(model: str, how: ModelOptions, what: DataOptions, as_json: bool) -> None:
    """Run MODEL on the test part of the data, or on what is held out where it has none.

    Told are its loss and accuracy, and how samples become inputs. Nothing is trained or written.
    """
    from gngraph.analysis.cost import cost
    from gngraph.cli.tables import print_json
    from gngraph.running.finite import standing

    graph, problem = open_both(model, how, what)
    if not as_json:
        click.echo(describe_setting(graph, problem))
        return
    found, size = standing(graph, problem), cost(graph)
    measured = {"loss": found.loss if math.isfinite(found.loss) else None, "accuracy": found.accuracy}
    notes = [*problem.data.notes, *([found.note] if found.note is not None else [])]
    told = {
        "name": graph.name,
        "data": problem.data.name,
        "on": problem.tested,
        "samples": len(problem.test),
        **measured,
    }
    print_json(
        told | {"params": size.params, "flops": size.flops, "inputs": problem.data.preprocess.text, "notes": notes}
    )


@click.command(cls=GroupedCommand, short_help="Predict what splitting and pruning each channel would do.")
@model_argument
@model_options
@data_options
@gathered(ScoreOptions, "options")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Candidates to show.")
@click.option("--all", "show_all", is_flag=True, help="Show every candidate.")
@json_option
@together()
def score(
    model: str,
    how: ModelOptions,
    what: DataOptions,
    options: ScoreOptions,
    top: int,
    show_all: bool,
    as_json: bool,
) -> None:
    """Score every candidate of MODEL by the Gauss-Newton model of the loss: predicted gain, standard error, cost."""
    from gngraph.analysis.manager import AnalysisManager
    from gngraph.cli.tables import candidate_rows, console, print_candidates, print_json
    from gngraph.scoring.gauss_newton import GaussNewton
    from gngraph.search.chance import MAY_KNOW, may_know

    analysis = GaussNewton(options.curvature, looks=options.looks, kinds=options.kinds)
    graph, problem = open_both(model, how, what)
    with console(stderr=True).status(f"scoring {graph.name}"):  # nothing where that is no terminal
        scores = AnalysisManager(problem).get(analysis, graph)
        doubted = may_know(graph, problem)
    rows, count = candidate_rows(scores, None if show_all else top), len(scores.candidates)
    notes = [*([MAY_KNOW] if doubted else []), *scores.notes]
    if as_json:
        told = {"curvature": options.curvature, "candidates": rows, "of": count, "notes": notes}
        print_json(told | {"unseen": not doubted, "samples": len(scores.judge.s)})
    else:
        print_candidates(rows, count, notes)
