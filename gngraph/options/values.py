"""Values of options: read from what Python, a configuration file or a line of text gives, and described where they do not fit.

What a value may be, its type says: `int`, `float`, `str`, `bool`, `Path`, `Literal[...]`, `tuple[int, ...]`, a union of those,
and any of them annotated with what narrows it, as in `Annotated[float, Within(0, 1)]`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gngraph.calling import is_factory, name_of
from gngraph.errors import BudgetError, GnGraphError

_COUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kKmMgGbB]?)\s*$")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def parse_count(text: str) -> int:
    """A count such as 250k, 1.5M or 40M.

    Raises:
        BudgetError: it is not a positive count.

    >>> parse_count("1.5M")
    1500000
    """
    match = _COUNT.match(text)
    value = round(float(match[1]) * _SCALE[match[2].lower()]) if match else 0
    if value <= 0:
        raise BudgetError(f"'{text}' is not a count; write a positive number such as 250k or 1.5M")
    return value


_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(us|ms|s|)\s*$")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}


def parse_milliseconds(text: str) -> float:
    """A time such as 5ms, 800us or 0.1s in milliseconds.

    Raises:
        BudgetError: it is none.

    >>> parse_milliseconds("800us")
    0.8
    """
    match = _TIME.match(text)
    if match is None:
        raise BudgetError(f"'{text}' is not a time; write a positive number such as 5ms or 800us")
    return float(match[1]) * _MILLISECONDS[match[2]]


@dataclass(frozen=True)
class Within:
    """Bounds of a number, which must be finite: `least` and `most` may be reached, `above` and `below` not."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether a number is within them."""
        return math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        words = [f"above {self.above:g}"] if math.isfinite(self.above) else []
        words += [f"of at least {self.least:g}"] if math.isfinite(self.least) else []
        words += [f"at most {self.most:g}"] if math.isfinite(self.most) else []
        words += [f"below {self.below:g}"] if math.isfinite(self.below) else []
        return " and ".join(words)


@dataclass(frozen=True)
class Written:
    """A value that text says in a way of its own, in Python and files too, as "20k" says a count.

    Attributes:
        read: the value of a text; raises ValueError or `GnGraphError`.
        wanted: what the text must be.
        shown: the text of a value.
        types: of what it reads, where that is more than text.
    """

    read: Callable[[Any], Any]
    wanted: str
    shown: Callable[[Any], str] = str
    types: tuple[type, ...] = (str,)


@dataclass(frozen=True)
class Named:
    """A text that names one of an open list of things: those that gngraph brings along are told and completed.

    Whether a name is known, whoever keeps the list decides.

    Attributes:
        names: that are told.
        paths: whether it may be a path as well.
    """

    names: tuple[str, ...]
    paths: bool = False


Count = Annotated[int, Written(parse_count, "a count such as 250k or 1.5M"), Within(least=1)]
"""A positive whole number, or its text."""

Milliseconds = Annotated[
    float, Written(parse_milliseconds, "a time such as 5ms or 800us", lambda value: f"{value:g}ms"), Within(above=0)
]
"""A positive number of milliseconds, or its text."""

CountOrCounts = (
    Count
    | Annotated[
        tuple[int, ...],
        Written(lambda text: tuple(map(parse_count, text.split(","))), "several", lambda own: ",".join(map(str, own))),
    ]
)
"""One count, or several."""


def own_function(given: Any) -> str:
    """The name of a function of the user's own.

    Args:
        given: a text that reads `pkg.module:function`, or the function.

    Raises:
        ValueError: it is no such text, or its name does not lead back to it.
    """
    if not isinstance(given, str):
        return name_of(given)
    if not is_factory(given):
        raise ValueError
    return given


OwnFunction = Annotated[
    str,
    Written(own_function, "pkg.module:function, or a function at the top of a module", types=(str, Callable)),
]
"""A function of the user's own. Kept is its name, by which a run that is repeated or goes on finds it."""

Whole = Annotated[int, Within(least=0)]
Positive = Annotated[int, Within(least=1)]
Share = Annotated[float, Within(0, 1)]


def is_union(hint: Any) -> bool:
    """Whether a type is one of several."""
    return get_origin(hint) in (Union, UnionType)


def read(given: Any, hint: Any, *, text: bool = False) -> Any:
    """`given` as a value of the type `hint`.

    Args:
        given: of that type already, or near it: a whole number for a float, a list for a tuple, a text where `Written` says so.
        hint: see above.
        text: whether `given` is a line of text, in which every type is written; items of a tuple have commas between them.

    Raises:
        ValueError: it is no such value.

    >>> read("2,3", tuple[int, ...], text=True), read("none", int | None, text=True), read("20k", Count)
    ((2, 3), None, 20000)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(given, arguments[0], arguments[1:], text)
    if is_union(hint):
        return _first(given, arguments, text)
    if origin is Literal:
        if isinstance(given, str) and given in arguments:
            return given
    elif origin is tuple:
        if text:
            return tuple(read(item.strip(), arguments[0], text=True) for item in given.split(",")) if given else ()
        if isinstance(given, list | tuple):
            return tuple(read(item, arguments[0]) for item in given)
    elif text:
        return _written(given, hint)
    else:
        return _plain(given, hint)
    raise ValueError


def described(hint: Any, between: str = "") -> str:
    """What a value of a type must be, as a message ends.

    Args:
        hint: the type.
        between: what stands between the items of a list, where it is text.

    >>> described(Share | Literal["auto"])
    'a number of at least 0 and at most 1 or auto'
    >>> described(tuple[int, ...] | None)
    'a list, each a whole number or none'
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        (written, *_) = [note.wanted for note in arguments[1:] if isinstance(note, Written)] or [""]
        bounds = " ".join(str(note) for note in arguments[1:] if isinstance(note, Within))
        return written or f"{described(arguments[0], between)} {bounds}".rstrip()
    if is_union(hint):
        return " or ".join(described(argument, between) for argument in arguments)
    if origin is Literal:
        return " or ".join(arguments)
    if origin is tuple:
        items = f" with '{between}' between its items" if between else ""
        return f"a list{items}, each {described(arguments[0])}"
    return _NAMES.get(hint) or f"{hint.__name__}, or a table of its options"


def shown(value: Any, hint: Any) -> str:
    """A value of a type as `read` takes it from a line of text.

    >>> shown(("split", "prune"), tuple[str, ...]), shown(None, int | None)
    ('split,prune', 'none')
    """
    written = [note for note in get_args(hint)[1:] if isinstance(note, Written)]
    if written:
        return written[0].shown(value)
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


def choices(hint: Any) -> tuple[str, ...]:
    """The words that a value of a type can be, where they are few: for completion and help.

    >>> choices(Literal["sgd", "adamw"] | None)
    ('sgd', 'adamw')
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return arguments
    if origin is Annotated:
        return next((note.names for note in arguments[1:] if isinstance(note, Named)), choices(arguments[0]))
    if is_union(hint) or origin is tuple:
        return tuple(word for argument in arguments for word in choices(argument))
    return ()


def may_be_path(hint: Any) -> bool:
    """Whether a value of a type may be a path.

    >>> may_be_path(Path | None), may_be_path(Annotated[str, Named(("digits",), paths=True)]), may_be_path(int)
    (True, True, False)
    """
    if get_origin(hint) is Annotated:
        return any(isinstance(note, Named) and note.paths for note in get_args(hint)[1:])
    return hint is Path or (is_union(hint) and any(may_be_path(one) for one in get_args(hint)))


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text that is not empty",
    Path: "a path",
    NoneType: "none",
}


def _annotated(given: Any, base: Any, notes: tuple[Any, ...], text: bool) -> Any:
    written = [note for note in notes if isinstance(note, Written)]
    if written and isinstance(given, written[0].types):
        try:
            value = written[0].read(given)
        except GnGraphError as error:
            raise ValueError(str(error)) from error
    else:
        value = read(given, base, text=text)
    if not all(note.holds(value) for note in notes if isinstance(note, Within)):
        raise ValueError
    return value


def _first(given: Any, hints: tuple[Any, ...], text: bool) -> Any:
    """The value by the first of some types that takes it; "none" is none, though it could be a text as well."""
    for hint in sorted(hints, key=lambda hint: hint is not NoneType):
        try:
            return read(given, hint, text=text)
        except ValueError:
            continue
    raise ValueError


def _plain(given: Any, hint: Any) -> Any:
    if hint is NoneType and given is None:
        return None
    if hint is int and not isinstance(given, bool | str):
        try:
            return operator.index(given)
        except TypeError:
            raise ValueError from None
    if hint is float and isinstance(given, Real) and not isinstance(given, bool):
        return float(given)
    if hint is Path and isinstance(given, str | Path) and given:
        return Path(given)
    if hint in (bool, str) and isinstance(given, hint) and given != "":
        return given
    raise ValueError


def _written(given: str, hint: Any) -> Any:
    if hint is NoneType:
        if given.lower() == "none":
            return None
    elif hint is bool:
        if given.lower() in ("true", "false"):
            return given.lower() == "true"
    elif given:
        return hint(given)
    raise ValueError
