"""Text of what has a name and options, such as `split-channels{count=8,space=features.0}` or `mc{draws=4}`, and back.

Such a thing is a frozen dataclass with a `name`; its fields are its options. `;` separates the items of a list, `none` is no value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from gngraph.errors import GnGraphError, choices
from gngraph.options.values import described, read

_NAME = re.compile(r"[\w-]+")
_OPTION = re.compile(r"\s*([\w-]*)\s*=([^,{}=]*)")
_SPACE = re.compile(r"\s*")


class Optioned(Protocol):
    """A dataclass whose fields are options, each with a default."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """What its text begins with."""
        ...


T = TypeVar("T", bound=Optioned)


def written(thing: Optioned) -> str:
    """The text of a thing: its name, with the options that differ from their defaults in alphabetical order."""
    given = {f.name: getattr(thing, f.name) for f in fields(thing) if getattr(thing, f.name) != f.default}
    options = ",".join(f"{name}={option_text(given[name])}" for name in sorted(given))
    return f"{thing.name}{{{options}}}" if options else thing.name


def option_text(value: Any) -> str:
    """The text of an option's value.

    >>> option_text((0, 3)), option_text(None), option_text(0.5)
    ('0;3', 'none', '0.5')
    """
    if isinstance(value, tuple):
        return ";".join(option_text(item) for item in value)
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Vocabulary(Generic[T]):
    """What texts of one kind may name; `written` gives the texts back.

    Attributes:
        noun: what messages call a thing that is named.
        known: name -> class.
        error: raised where a name or an option is unknown, or a value does not fit; the message gives the position and the
            choices.
    """

    noun: str
    known: Mapping[str, type[T]]
    error: type[GnGraphError]

    def one(self, text: str) -> T:
        """The thing that a text describes: its name, then options in braces."""
        reader = _Reader(self, text)
        found = reader.thing()
        reader.end("expected the end")
        return found

    def several(self, text: str) -> list[T]:
        """The things that a text describes, separated by commas, in order."""
        reader = _Reader(self, text)
        found = [reader.thing()]
        while reader.take(","):
            found.append(reader.thing())
        reader.end("expected ',' or the end")
        return found


class _Reader(Generic[T]):
    def __init__(self, vocabulary: Vocabulary[T], text: str) -> None:
        self.vocabulary, self.noun = vocabulary, vocabulary.noun
        self.text = text
        self.position = 0

    def thing(self) -> T:
        known = self.vocabulary.known
        self._skip()
        start = self.position
        match = _NAME.match(self.text, start)
        if match is None:
            raise self._error(f"expected the name of a {self.noun}: one of {', '.join(sorted(known))}", start)
        self.position = match.end()
        name = match[0]
        if name not in known:
            raise self._error(f"there is no {self.noun} '{name}'{choices(name, known)}", start)
        cls = known[name]
        values = self._options(name, cls) if self.take("{") else {}
        try:
            return cls(**values)
        except self.vocabulary.error as error:
            raise self._error(str(error), start) from error

    def end(self, expected: str) -> None:
        self._skip()
        if self.position < len(self.text):
            raise self._error(f"{expected}, not '{self.text[self.position]}'", self.position)

    def take(self, character: str) -> bool:
        self._skip()
        found = self.text.startswith(character, self.position)
        self.position += found
        return found

    def _options(self, name: str, cls: type[T]) -> dict[str, Any]:
        hints = get_type_hints(cls, include_extras=True)
        known = [f.name for f in fields(cls)]
        values: dict[str, Any] = {}
        while not self.take("}"):
            if values and not self.take(","):
                raise self._error(f"expected ',' or '}}' in the options of '{name}'", self.position)
            self._skip()
            start = self.position
            match = _OPTION.match(self.text, start)
            if match is None:
                raise self._error(f"expected option=value in the options of '{name}'", start)
            option, value = match[1], match[2].strip()
            if option not in known:
                raise self._error(f"{self.noun} '{name}' has no option '{option}'{choices(option, known)}", start)
            if option in values:
                raise self._error(f"option '{option}' of {self.noun} '{name}' is given twice", start)
            try:
                values[option] = read(value.replace(";", ","), hints[option], text=True)
            except ValueError:
                wanted = described(hints[option], ";")
                message = f"option '{option}' of {self.noun} '{name}' is '{value}', but must be {wanted}"
                raise self._error(message, match.start(2)) from None
            self.position = match.end()
        return values

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self.position)
        assert match is not None
        self.position = match.end()

    def _error(self, message: str, position: int) -> GnGraphError:
        return self.vocabulary.error(f"{message} (at character {position + 1} of the {self.noun} text '{self.text}')")
