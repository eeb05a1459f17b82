"""How commands speak: to people in lines, to machines in one JSON document, or only of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gngraph.environment import Environment
from gngraph.errors import GnGraphError

JSON, QUIET = ("--json",), ("-q", "--quiet")
"""Words of the command line that choose how."""


def speaking(command: click.Command) -> click.Command:
    """The command, which takes the options that choose how it speaks."""
    options = (
        (
            JSON,
            "as_json",
            "Print the result, or the error, as one JSON document; lines about the work go to standard error.",
        ),
        (QUIET, "quiet", "Print the result and errors alone."),
    )
    for words, name, told in options:
        command.params.append(
            click.Option([*words, name], is_flag=True, is_eager=True, expose_value=False, callback=_kept, help=told)
        )
    return command


def _kept(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[f"gngraph.{param.name}"] = value


def _chosen(name: str) -> bool:
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(f"gngraph.{name}"))


def for_machines() -> bool:
    """Whether the command that runs answers in JSON."""
    return _chosen("as_json")


def quiet() -> bool:
    """Whether the command that runs keeps silent about its work; of several processes the first tells."""
    return _chosen("quiet") or Environment.read().rank > 0


def say(text: str) -> None:
    """A line about the work: nothing where the command is quiet, on standard error where standard output is for machines."""
    if not quiet():
        click.echo(text, err=for_machines())


def answer(told: Any, text: str | Callable[[], None]) -> None:
    """The result of a command.

    Args:
        told: as JSON values.
        text: the same for people, or what prints it.
    """
    if for_machines():
        print_json(told)
    elif isinstance(text, str):
        click.echo(text)
    else:
        text()


def print_json(told: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(told, indent=2, allow_nan=False))


def require_free(*files: Path | None) -> None:
    """Refuse to replace files that are there, unless the command is told to.

    Args:
        files: to be written; None is none.

    Raises:
        GnGraphError: one is there.
    """
    for file in files:
        if file is not None and file.exists() and not _chosen("force"):
            raise GnGraphError(f"'{file}' is there already: name another one, or pass --force to replace it")


force_option = click.option(
    "--force", is_flag=True, expose_value=False, callback=_kept, help="Replace files that are there."
)
