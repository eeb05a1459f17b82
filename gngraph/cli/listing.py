"""Commands about gngraph itself: passes."""

from __future__ import annotations

import importlib

import click

from gngraph.cli.names import PASS_NAMES
from gngraph.cli.parameters import GroupedCommand, OpenWord
from gngraph.cli.speaking import answer


@click.command(cls=GroupedCommand, short_help="List the passes and their options.")
@click.argument("names", nargs=-1, metavar="[PASS]...", type=OpenWord(PASS_NAMES))
def passes(names: tuple[str, ...]) -> None:
    """List the passes that `gngraph apply` takes, or those named PASS: what each does and promises, and its options."""
    from gngraph.errors import PassError, choices
    from gngraph.rewrite.pass_manuals import manuals

    importlib.import_module("gngraph.passes")  # where they register themselves
    known = {manual.name: manual for manual in manuals()}
    for name in names:
        if name not in known:
            raise PassError(f"there is no pass '{name}'{choices(name, known)}")
    chosen = [known[name] for name in names or known]
    answer([manual.to_json() for manual in chosen], "\n\n".join(map(str, chosen)))
