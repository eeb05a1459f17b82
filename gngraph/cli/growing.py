"""Commands that change the architecture: grow, and those for a trained network, extend, reshape, shrink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    data_options,
    describe_setting,
    model_argument,
    model_options,
    open_both,
    run_options,
)
from gngraph.cli.parameters import Command, gathered
from gngraph.options import ExtendOptions, GrowOptions, Options, ReshapeOptions, ShrinkOptions


def _job_options(record: type[Options]) -> Callable[[Command], Command]:
    """What a job takes on the command line: MODEL, data, its own options, and where it writes."""

    def decorate(command: Command) -> Command:
        for option in (run_options, gathered(record, "options"), data_options, model_options, model_argument):
            command = option(command)
        return command

    return decorate


@click.command(short_help="Grow a network up to a budget.")
@_job_options(GrowOptions)
def grow(**words: Any) -> None:
    """Grow MODEL on data in rounds of training, analysis and rewriting; the budget is never exceeded.

    The folder then holds report.html, seed.gng, model.gng, model.py with weights.safetensors, model.onnx, history.jsonl,
    channels.jsonl and pictures.
    """
    _work("grow", **words)


@click.command(short_help="Make a trained network larger.")
@_job_options(ExtendOptions)
def extend(**words: Any) -> None:
    """Make MODEL, a trained network, larger without losing what it does, and train it on.

    Where the new channels go, the worth of each layer's width decides; what was learned is undone if the loss on samples that were
    held back rises beyond what was predicted. The folder then holds what `gngraph grow` writes.
    """
    _work("extend", **words)


@click.command(short_help="Move channels where they are worth more.")
@_job_options(ReshapeOptions)
def reshape(**words: Any) -> None:
    """Move channels of MODEL, a trained network, from where they are worth little to where they are worth much, and train it on.

    It has no more parameters and FLOPs than before. The folder then holds what `gngraph grow` writes.
    """
    _work("reshape", **words)


@click.command(short_help="Make a trained network smaller.")
@_job_options(ShrinkOptions)
def shrink(**words: Any) -> None:
    """Make MODEL, a trained network, smaller and train it on.

    What the loss misses least is removed, and rebuilt from the channels that stay. The folder then holds what `gngraph grow`
    writes.
    """
    _work("shrink", **words)


def _work(
    job: str, *, model: str, how: ModelOptions, what: DataOptions, options: Options, output: Path, force: bool
) -> None:
    from gngraph.api import write_run
    from gngraph.cli.networks import describe_run
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.jobs import JOBS
    from gngraph.growth.loop import grow_by
    from gngraph.growth.run_folder import set_history_aside
    from gngraph.growth.run_lock import claimed, require_free_folder

    with claimed(output):
        if not force:
            require_free_folder(output)
        graph, problem = open_both(model, how, what)
        task = JOBS[job].task(options, graph)
        set_history_aside(output)
        click.echo(describe_setting(graph, problem))
        with RunProgress(task.options) as progress:
            result = grow_by(task, graph, problem, out=output, observer=progress)
            progress.exporting()
            files = write_run(result, problem, output)
    click.echo(describe_run(files, output))
