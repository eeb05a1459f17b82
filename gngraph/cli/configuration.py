"""Options of commands from a configuration file, whose tables are the records of options; what the command line says wins."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gngraph.cli.parameters import GroupedOption, Word
from gngraph.errors import GnGraphNote, OptionError, choices
from gngraph.options.toml import read_toml

FOUND = (Path("gngraph.toml"), Path("pyproject.toml"))
"""Files that are read where they lie in the working directory and no other is named; the first that says something."""

Keys = dict[tuple[str, ...], dict[str, click.Parameter]]
"""Table -> key -> what it says."""

_OF_A_CALL = ("config", "force", "resume", "json", "quiet")
"""Options that stand in no file: they are about one call."""


def configurable(command: click.Command) -> click.Command:
    """The command; it reads a configuration file if it has options that stand in one."""
    if any(isinstance(param, GroupedOption) for param in command.params):
        config = click.Option(
            ["--config"],
            type=click.Path(path_type=Path, dir_okay=False),
            is_eager=True,
            expose_value=False,
            callback=_configure,
            help="Configuration file, such as the config.toml of a run; by default gngraph.toml, or [tool.gngraph] in "
            "pyproject.toml, of the working directory. The command line wins.",
        )
        command.params.append(config)
    return command


def _configure(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if ctx.resilient_parsing:
        return
    try:
        if path is not None:
            ctx.default_map = _defaults(ctx, read_toml(path), path)
            return
        path, tables = next(
            ((path, found) for path in FOUND if path.is_file() and (found := read_toml(path))), (None, {})
        )
        if path is not None:
            ctx.default_map = _defaults(ctx, tables, path)
            if ctx.default_map.get("trust"):
                raise OptionError(
                    f"'{path}' was not named, so that it cannot let a model file run code: pass --trust, or --config {path}"
                )
            if ctx.default_map:
                warnings.warn(f"options are taken from '{path}'", GnGraphNote, stacklevel=1)
    except OptionError as error:
        raise click.UsageError(str(error), ctx) from error


def _defaults(ctx: click.Context, tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Parameter of the command -> its value in a file, of which every table is checked."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    known: Keys = {}
    for command in group.commands.values():
        for table, keys in _keys(command).items():
            known[table] = known.get(table, {}) | keys
    given = dict(_entries(tables, (), known, path))
    own = _keys(ctx.command)
    return {str(own[table][key].name): value for (table, key), value in given.items() if key in own.get(table, {})}


def _keys(command: click.Command) -> Keys:
    """The tables that a command reads."""
    found: Keys = {}
    for param in command.params:
        if isinstance(param, GroupedOption):
            found.setdefault(tuple(name or str(command.name) for name in param.table), {})[param.key] = param
        elif isinstance(param, click.Option):
            key = max(param.opts, key=len).removeprefix("--").replace("-", "_")
            if key not in _OF_A_CALL:
                found.setdefault((str(command.name),), {})[key] = param
        elif param.name == "model":
            found.setdefault(("model",), {})["model"] = param
    return found


def _entries(
    table: Mapping[str, Any], place: tuple[str, ...], known: Keys, path: Path
) -> Iterator[tuple[tuple[tuple[str, ...], str], Any]]:
    """The entries of a table and those within it, checked."""
    inner = {name[len(place)] for name in known if name[: len(place)] == place and len(name) > len(place)}
    keys, where = known.get(place, {}), f"[{'.'.join(place)}] of '{path}'" if place else f"'{path}'"
    for key, value in table.items():
        if key in inner:
            if not isinstance(value, Mapping):
                raise OptionError(f"'{key}' in {where} must be a table, [{'.'.join((*place, key))}]")
            yield from _entries(value, (*place, key), known, path)
        elif key in keys:
            yield (place, key), _checked(keys[key], key, value, where)
        else:
            what = "option" if place else "table"
            raise OptionError(f"{where} has an unknown {what} '{key}'{choices(key, (*keys, *inner))}")


def _checked(param: click.Parameter, key: str, value: Any, where: str) -> Any:
    try:
        if isinstance(param.type, Word):
            param.type.entry.value(value)
            return value
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error
    flag = isinstance(param, click.Option) and param.is_flag
    if isinstance(value, bool) if flag else isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise OptionError(
        f"{where}: option '{key}' is '{value}', but must be {'true or false' if flag else 'a text or a number'}"
    )
