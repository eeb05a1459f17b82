"""Commands that run data through a network and leave its architecture as it is: train, evaluate, score."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gngraph.cli.opening import describe_setting, open_both
from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    data_options,
    model_argument,
    model_options,
    output_option,
    training_options,
)
from gngraph.cli.parameters import GroupedCommand, gathered
from gngraph.cli.processes import together
from gngraph.cli.speaking import answer, for_machines, force_option, require_free, say
from gngraph.options import ScoreOptions, TrainOptions

if TYPE_CHECKING:
    from gngraph.running.finite import Standing


@click.command(cls=GroupedCommand, short_help="Train a network.")
@model_argument
@model_options
@data_options
@training_options
@click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="Passes over the training set.")
@output_option
@force_option
@together()
def train(model: str, how: ModelOptions, what: DataOptions, training: TrainOptions, epochs: int, output: Path) -> None:
    """Train MODEL with a learning rate that falls to 0 along a cosine."""
    require_free(output)
    from gngraph.analysis.cost import cost
    from gngraph.cli.progress import EpochLines
    from gngraph.files.archive import save
    from gngraph.growth.run_folder import archived
    from gngraph.ranks import here
    from gngraph.report.words import percent, perplexity, perplexity_of
    from gngraph.running.finite import standing
    from gngraph.running.problem import inputs_of
    from gngraph.search.chance import may_know
    from gngraph.training.objective import objective_told, require_objective
    from gngraph.training.patience import kept_told, require_judge
    from gngraph.training.stretch import Stretch
    from gngraph.training.training import Trainer
    from gngraph.training.units import units_of

    graph, problem = open_both(model, how, what)
    inputs = inputs_of(problem, not may_know(graph, problem))
    say(describe_setting(graph, problem))
    require_objective(training, graph, problem)
    require_judge(problem, training)
    for note in (units_of(graph, problem, training).text, objective_told(training, problem)):
        if note is not None:
            say(f"note: {note}")
    with EpochLines(epochs) as lines:
        stretch = Stretch(epochs, "cosine", training.warmup, patience=training.patience)
        trained = Trainer(problem, training).train(graph, stretch, None, lines.finished)
    if (kept := kept_told(trained.epochs, epochs)) is not None:
        say(f"note: {kept}")
    here().only_first(lambda: save(trained.graph, output, history=archived([], {}, inputs)))
    found = standing(trained.graph, problem)
    if found.note is not None:
        say(f"note: {found.note}")
    accuracy = percent(f", {problem.tested} accuracy ", found.accuracy) + percent(", mean IoU ", found.overlap)
    answer(
        {
            "output": str(output),
            "params": cost(trained.graph).params,
            "on": problem.tested,
            **told_of(found),
            **perplexity_of(problem.loss_fn, found.loss),
            "epochs": [asdict(epoch) for epoch in trained.epochs],
        },
        f"{output}: {problem.tested} loss {found.loss:.4f}{perplexity(problem.loss_fn, found.loss)}{accuracy}",
    )


@click.command(cls=GroupedCommand, short_help="Measure loss and accuracy of a network.")
@model_argument
@model_options
@data_options
@together()
def evaluate(model: str, how: ModelOptions, what: DataOptions) -> None:
    """Run MODEL on the test part of the data, or on what is held out where it has none.

    Told are its loss and accuracy, and how samples become inputs. Nothing is trained or written.
    """
    from gngraph.analysis.cost import cost
    from gngraph.report.words import perplexity_of
    from gngraph.running.finite import standing

    graph, problem = open_both(model, how, what)
    if not for_machines():
        click.echo(describe_setting(graph, problem))
        return
    found, size = standing(graph, problem), cost(graph)
    notes = [*problem.data.notes, *([found.note] if found.note is not None else [])]
    told = {
        "name": graph.name,
        "data": problem.data.name,
        "on": problem.tested,
        "samples": len(problem.test),
        **told_of(found),
        **perplexity_of(problem.loss_fn, found.loss),
        "params": size.params,
        "flops": size.flops,
    }
    answer(told | {"inputs": problem.data.preprocess.text, "notes": notes}, "")


@click.command(cls=GroupedCommand, short_help="Predict what splitting and pruning each channel would do.")
@model_argument
@model_options
@data_options
@gathered(ScoreOptions, "options")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Candidates to show.")
@click.option("--all", "show_all", is_flag=True, help="Show every candidate.")
@together()
def score(
    model: str,
    how: ModelOptions,
    what: DataOptions,
    options: ScoreOptions,
    top: int,
    show_all: bool,
) -> None:
    """Score every candidate of MODEL by the Gauss-Newton model of the loss: predicted gain, standard error, cost."""
    from gngraph.analysis.channels import ChannelSpaces
    from gngraph.analysis.manager import AnalysisManager
    from gngraph.cli.tables import candidate_rows, console, print_candidates
    from gngraph.growth.jobs import scope_of
    from gngraph.scoring.gauss_newton import GaussNewton
    from gngraph.search.chance import MAY_KNOW, may_know

    analysis = GaussNewton(options.curvature, looks=options.looks, kinds=options.kinds)
    graph, problem = open_both(model, how, what)
    scope = scope_of(options)
    scope.check(graph, ChannelSpaces.of(graph))
    with console(stderr=True, work=True).status(f"scoring {graph.name}"):  # nothing where that is no terminal
        scores = AnalysisManager(problem, scope=scope).get(analysis, graph)
        doubted = may_know(graph, problem)
    rows, count = candidate_rows(scores, None if show_all else top), len(scores.candidates)
    notes = [*([MAY_KNOW] if doubted else []), *scores.notes]
    told = {"curvature": options.curvature, "candidates": rows, "of": count, "notes": notes}
    answer(told | {"unseen": not doubted, "samples": len(scores.judge.s)}, lambda: print_candidates(rows, count, notes))


def told_of(found: Standing) -> dict[str, Any]:
    """Loss, accuracy and mean overlap as JSON values."""
    return found.record() | {"loss": found.loss if math.isfinite(found.loss) else None}
