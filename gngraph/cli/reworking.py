"""Commands for a trained network: extend, reshape, shrink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    TrainingOptions,
    data_options,
    model_argument,
    model_options,
    open_run,
    run_options,
    training_options,
)

F = TypeVar("F", bound=Callable[..., Any])


def _options(command: F) -> F:
    """What the three have in common."""
    epochs = click.option(
        "--epochs", type=click.IntRange(0), default=15, show_default=True, help="Epochs of training after the rewrite."
    )
    perturb = click.option(
        "--perturb", type=click.FloatRange(0, 1), default=0.0, show_default=True,
        help="Share of new initial weights mixed in before that training; 0.3 helps a network that was trained from nothing on the "
        "same data to make use of its new channels.",
    )  # fmt: skip
    for option in reversed(
        (model_argument, model_options, data_options, training_options, epochs, perturb, run_options)
    ):
        command = option(command)
    return command


@click.command(short_help="Make a trained network larger.")
@click.option("--by", type=float, default=0.5, show_default=True, help="Parameters and FLOPs to add, as a share.")
@_options
def extend(by: float, **options: Any) -> None:
    """Make MODEL, a trained network, larger without losing what it does, and train it on.

    Where the new channels go, the worth of each layer's width decides; what was learned is undone if the loss on samples that were
    held back rises beyond what was predicted. The folder then holds what `gngraph grow` writes.
    """
    _rework("extend", by, **options)


@click.command(short_help="Move channels where they are worth more.")
@_options
def reshape(**options: Any) -> None:
    """Move channels of MODEL, a trained network, from where they are worth little to where they are worth much.

    It is trained on, at no more parameters and FLOPs than it has. The folder then holds what `gngraph grow` writes.
    """
    _rework("reshape", None, **options)


@click.command(short_help="Make a trained network smaller.")
@click.option(
    "--to",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of the FLOPs that it keeps; its parameters become no more.",
)
@_options
def shrink(to: float, **options: Any) -> None:
    """Make MODEL, a trained network, smaller and train it on.

    What the loss misses least is removed, and rebuilt from the channels that stay. The folder then holds what `gngraph grow`
    writes.
    """
    _rework("shrink", to, **options)


def _rework(
    job: str,
    share: float | None,
    *,
    model: str,
    how: ModelOptions,
    what: DataOptions,
    training: TrainingOptions,
    epochs: int,
    perturb: float,
    output: Path,
    force: bool,
) -> None:
    from gngraph import api
    from gngraph.cli.networks import describe_run
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.jobs import rework

    options = training.build()
    graph, problem = open_run(model, how, what, output, force)
    with RunProgress(1, 0, epochs) as progress:
        result = rework(
            job,
            graph,
            problem,
            share=share,
            epochs=epochs,
            perturb=perturb,
            out=output,
            observer=progress,
            train=options,
        )
        progress.exporting()
        files = api.write_run(result, problem, output)
    click.echo(describe_run(files, output))
