"""Options of commands, made from the records that define them; files are looked for before torch is imported."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from gngraph.cli.examples import EXAMPLES
from gngraph.errors import OptionError
from gngraph.options import Entry, Options
from gngraph.options.values import choices, described, is_union, may_be_path, read, shown

Command = Callable[..., Any]

_SHAPE = re.compile(r"[1-9][0-9]*(x[1-9][0-9]*)*")


def gathered(
    record: type[Options], name: str, *, required: Collection[str] = (), table: str = ""
) -> Callable[[Command], Command]:
    """A decorator that gives a command the options of a record, and hands them over as one, called `name`.

    Args:
        record: its fields are the options; those of a record within it are options of the command as well.
        name: of the command's argument.
        required: options that must be named.
        table: of a configuration file where they stand; by default that of the command.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            try:
                options = _record(record, given)
            except OptionError as error:
                raise click.UsageError(str(error)) from error
            return command(**given, **{name: options})

        decorated: Command = wrapper
        for entry, of, within in reversed([*_flat(record, (table,))]):
            decorated = _option(entry, of.title, within, entry.name in required)(decorated)
        return decorated

    return decorate


class GroupedOption(click.Option):
    """An option that help shows under what it is of.

    Args:
        group: that, such as "the data".
        table: of a configuration file in which it stands, and that within it; "" is the table of the command.
        key: its name there.
        words: see `click.Option`.
        given: see `click.Option`.
    """

    def __init__(self, words: Sequence[str], *, group: str, table: tuple[str, ...], key: str, **given: Any) -> None:
        super().__init__(words, **given)
        self.group, self.table, self.key = group, table, key


class GroupedCommand(click.Command):
    """A command whose help shows examples, and its options in groups: its own first, then those of each record of options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples and the options, with a heading for each group."""
        if self.name in EXAMPLES:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in EXAMPLES[self.name]))
        groups: dict[str, list[tuple[str, str]]] = {"": []}
        for param in self.get_params(ctx):
            told = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if told is not None:
                groups.setdefault(param.group if isinstance(param, GroupedOption) else "", []).append(told)
        for group, options in groups.items():
            if options:
                with formatter.section(f"Options of {group}" if group else "Options"):
                    formatter.write_dl(options)


def flag(name: str) -> str:
    """The word on the command line of an option in Python.

    >>> flag("max_params")
    '--max-params'
    """
    return f"--{name.replace('_', '-')}"


def _option(entry: Entry, group: str, table: tuple[str, ...], required: bool) -> Callable[[Command], Command]:
    given: dict[str, Any] = {
        "cls": GroupedOption,
        "group": group,
        "table": table,
        "key": entry.name,
        "help": entry.help,
    }
    if entry.hint is bool:
        return click.option(flag(entry.name), is_flag=True, **given)
    given |= {"type": Word(entry), "required": required}
    if entry.default is not None:
        given |= {"default": shown(entry.default, entry.hint), "show_default": True}
    return click.option(flag(entry.name), **given)


def _flat(record: type[Options], table: tuple[str, ...]) -> Iterator[tuple[Entry, type[Options], tuple[str, ...]]]:
    """The options of a record and of those within it, each with the record that it is of, and its table."""
    for entry in record.entries():
        if entry.part is None:
            yield entry, record, table
        else:
            yield from _flat(entry.part, (*table, entry.name))


def _record(record: type[Options], given: dict[str, Any]) -> Options:
    """The record of what was given, which is taken out."""
    values = {e.name: _record(e.part, given) if e.part else given.pop(e.name) for e in record.entries()}
    return record.of(values)


class Word(click.ParamType[Any]):
    """A value of an option, in words.

    Args:
        entry: the option.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.name = "|".join(choices(entry.hint)) or "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, checked."""
        try:
            return read(value, self.entry.hint, text=isinstance(value, str))
        except ValueError as error:
            reason = f": {error}" if str(error) else ""
            self.fail(f"'{value}' is not {described(self.entry.hint, ',')}{reason}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Words that it can be, and the name of the option where it can be another."""
        hint, name = self.entry.hint, self.entry.name.rpartition("_")[2].upper()
        kinds = [kind for kind in get_args(hint) if kind is not NoneType] if is_union(hint) else [hint]
        words = [word for kind in kinds for word in choices(kind) or [name]]
        words += ["PATH"] if may_be_path(hint) and words != [name] else []
        several = ",..." if get_origin(hint) is tuple and len(words) > 1 else ""
        return f"[{'|'.join(words)}]{several}" if words != [name] else name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Words that it can be, of a list or a text of names its last item; files and folders where it may be a path."""
        hint, several = self.entry.hint, get_origin(self.entry.hint) is tuple or "," in incomplete
        files = [CompletionItem(incomplete, type="file")] if may_be_path(hint) else []
        return [*files, *completed(choices(hint), incomplete, several=several)]


def completed(words: Iterable[str], incomplete: str, *, several: bool) -> list[CompletionItem]:
    """Words as a shell completes what was begun.

    Args:
        words: that it may become.
        incomplete: what was begun.
        several: whether it may be a list, whose last item is completed.

    >>> [item.value for item in completed(("split", "prune"), "split,p", several=True)]
    ['split,prune']
    """
    before, comma, begun = incomplete.rpartition(",") if several else ("", "", incomplete)
    return [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(begun)]


class OpenWord(click.ParamType[str]):
    """A word of an open list, which shells complete.

    Args:
        words: that gngraph brings along.
        several: whether it may be a list, with commas between its items.
    """

    name = "name"

    def __init__(self, words: Iterable[str], *, several: bool = False) -> None:
        self.words, self.several = tuple(words), several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words that begin so."""
        return completed(self.words, incomplete, several=self.several)


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape of one sample, such as 3x32x32.

    Raises:
        ValueError: it is none.
    """
    if not _SHAPE.fullmatch(text):
        raise ValueError
    return tuple(int(size) for size in text.split("x"))


def shape_text(shape: tuple[int, ...]) -> str:
    """What `parse_shape` reads."""
    return "x".join(map(str, shape))


def usable_device(name: str) -> str:
    """The name of a torch device that works here, or auto.

    Raises:
        ValueError: it does not work.
    """
    if name != "auto":
        import torch

        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError((str(error).splitlines() or [""])[0].rstrip(".")) from error
    return name


class Model(click.ParamType[str]):
    """What a network is read from: a file that is there, the folder of a run, a round of it, or pkg.module:factory."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself; of a run or a round of it the archive of its network."""
        from gngraph.files import require_there
        from gngraph.files.runs import archive_named

        word = archive_named(str(value))
        require_there(word)
        return word

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files and folders."""
        return [CompletionItem(incomplete, type="file")]


class ArchiveFile(click.ParamType[Path]):
    """A gngraph archive to be written: checked before the work starts, not after it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(value)
        if path.suffix != ".gng":
            self.fail(f"'{path}' must end in .gng: gngraph writes its own archive (see gngraph export)", param, ctx)
        if path.is_dir() or not path.absolute().parent.is_dir():
            self.fail(f"'{path}' cannot be written: its folder must exist and it must not be a folder", param, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files and folders."""
        return [CompletionItem(incomplete, type="file")]
