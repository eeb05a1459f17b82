"""Commands that several processes do together, as torchrun starts them; the first of these speaks for all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import click

from gngraph.environment import Environment
from gngraph.errors import GnGraphError, GnGraphNote

TOGETHER = ("train", "evaluate", "score", "grow", "extend", "reshape", "shrink", "resume", "replay")
"""Commands that several processes can share."""


@contextmanager
def together() -> Iterator[None]:
    """The processes of the job work together inside, and one of them tells what there is to tell, an error too.

    Raises:
        GnGraphError: the environment names several processes, but not how they find each other, or they do not find each other.
    """
    from gngraph.ranks import joined, tells

    with joined() as ranks, open(os.devnull, "w", encoding="utf-8") as nowhere, warnings.catch_warnings():
        if not ranks.first:
            warnings.simplefilter("ignore", GnGraphNote)
        try:
            if ranks.first:
                yield
            else:
                with redirect_stdout(nowhere):
                    yield
        except Exception:
            if tells():
                raise
            raise click.exceptions.Exit(1) from None


def require_alone(command: str) -> None:
    """Refuse several processes for a command that is one's work.

    Raises:
        GnGraphError: the environment is that of several processes.
    """
    if command not in TOGETHER and (count := Environment.read().ranks) > 1:
        raise GnGraphError(
            f"gngraph {command} is the work of one process, but torchrun started {count}: call it without torchrun (which is for "
            f"{', '.join(TOGETHER)})"
        )
