"""`Options`: frozen dataclasses whose fields are keywords in Python, options of a command and keys of a file at once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

from gngraph.errors import OptionError, choices
from gngraph.options.values import described, read

F = TypeVar("F", bound=Callable[..., Any])


def option(default: Any, help: str) -> Any:
    """A field of `Options`.

    Args:
        default: its value where none is given; a field that may be None has this default, for files have no None.
        help: what it means, in whole sentences.
    """
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Entry:
    """One option of a record: what its field says.

    Attributes:
        name: in Python and files.
        hint: its type, see `gngraph.options.values`.
        default, help: see `option`.
    """

    name: str
    hint: Any
    default: Any
    help: str

    @property
    def part(self) -> type[Options] | None:
        """The record that its value is, where options are gathered into one."""
        return self.hint if inspect.isclass(self.hint) and issubclass(self.hint, Options) else None

    def value(self, given: Any) -> Any:
        """`given` as a value of the option.

        Raises:
            OptionError: it is none; the sentence says what it must be.
        """
        if self.part is not None:
            return self.part.of(given)
        try:
            return read(given, self.hint)
        except ValueError:
            plain = isinstance(given, str | int | float | Path | None)
            told = f"'{given}'" if plain else f"of type '{type(given).__name__}'"
            raise OptionError(f"option '{self.name}' is {told}, but must be {described(self.hint)}") from None


@dataclass(frozen=True)
class Options:
    """Base of the records of options. A record is a frozen dataclass, each field made by `option`.

    Values are checked where a record is made, so that nothing is trained or written with a wrong one.

    Attributes:
        title: what the options are of, for messages.

    Raises:
        OptionError: a value is of the wrong type or out of range.

    >>> @dataclass(frozen=True)
    ... class Walk(Options):
    ...     title: ClassVar[str] = "walk"
    ...     steps: int = option(3, "How far to go.")
    >>> Walk.of({"steps": 5}).as_dict()
    {'steps': 5}
    >>> Walk.of(step=5)
    Traceback (most recent call last):
    gngraph.errors.OptionError: walk has no option 'step'; did you mean 'steps'? Choose from steps
    """

    title: ClassVar[str]

    def __post_init__(self) -> None:
        for entry in self.entries():
            object.__setattr__(self, entry.name, entry.value(getattr(self, entry.name)))

    @classmethod
    def entries(cls) -> tuple[Entry, ...]:
        """The options, in order."""
        hints = get_type_hints(cls, include_extras=True)
        return tuple(Entry(f.name, hints[f.name], f.default, f.metadata["help"]) for f in dataclasses.fields(cls))

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None = None, /, **changes: Any) -> Self:
        """A record from another, or from a mapping as a file gives it, with changes.

        Args:
            given: where None, all is as by default; a table within the mapping is a record within the record.
            changes: options by name, which win.

        Raises:
            OptionError: there is no such option, or a value does not fit.
        """
        if (isinstance(given, Options) and type(given) is not cls) or not isinstance(given, Options | Mapping | None):
            raise OptionError(
                f"the options of {cls.title} are {cls.__name__} or a table, not of type '{type(given).__name__}'"
            )
        values = (
            {e.name: getattr(given, e.name) for e in cls.entries()} if isinstance(given, Options) else dict(given or {})
        )
        values |= changes
        known = [entry.name for entry in cls.entries()]
        for name in values:
            if name not in known:
                raise OptionError(f"{cls.title} has no option '{name}'{choices(str(name), known)}")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The options as a file keeps them: `of` reads them back. What is None is left out."""
        values = {entry.name: getattr(self, entry.name) for entry in self.entries()}
        return {name: _kept(value) for name, value in values.items() if value is not None}


def _kept(value: Any) -> Any:
    if isinstance(value, Options):
        return value.as_dict()
    if isinstance(value, tuple):
        return [_kept(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def taking(record: type[Options]) -> Callable[[F], F]:
    """Decorator of a function that takes the options of a record as keywords: its signature and docstring name each."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        named = [
            inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=entry.hint)
            for entry in record.entries()
        ]
        function.__signature__ = signature.replace(parameters=[*kept, *named])  # type: ignore[attr-defined]
        lines = "".join(f"\n    {entry.name}: {entry.help}" for entry in record.entries())
        function.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:{lines}\n"
        return function

    return decorate
