"""Commands about gngraph itself: passes."""

from __future__ import annotations

import importlib

import click

from gngraph.cli.options import json_option
from gngraph.cli.parameters import GroupedCommand


@click.command(cls=GroupedCommand, short_help="List the passes and their options.")
@click.argument("names", nargs=-1, metavar="[PASS]...")
@json_option
def passes(names: tuple[str, ...], as_json: bool) -> None:
    """List the passes that `gngraph apply` takes, or those named PASS: what each does and promises, and its options."""
    from gngraph.cli.tables import print_json
    from gngraph.errors import PassError, choices
    from gngraph.rewrite.pass_manuals import manuals

    importlib.import_module("gngraph.passes")  # where they register themselves
    known = {manual.name: manual for manual in manuals()}
    for name in names:
        if name not in known:
            raise PassError(f"there is no pass '{name}'{choices(name, known)}")
    chosen = [known[name] for name in names or known]
    if as_json:
        print_json([manual.to_json() for manual in chosen])
    else:
        click.echo("\n\n".join(map(str, chosen)))
