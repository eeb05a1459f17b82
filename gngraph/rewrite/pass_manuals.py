"""What people read of a pass: what it does, promises and takes, from the class itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from gngraph.options.text import option_text
from gngraph.options.values import described
from gngraph.rewrite.graph_pass import REGISTRY, Effect, Pass

PROMISES: dict[Effect, str] = {
    "preserves": "the network computes what it computed, held to 1e-10 in float64",
    "rounds": "the network computes what it computed, but for the rounding of new weights to its precision",
    "masks": "the network computes what it computed without the channels, held to 1e-9 in float64",
    "changes": "the network computes something else",
}
_ATTRIBUTE = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class OptionManual:
    """An option of a pass.

    Attributes:
        name: in braces.
        value: what it can be, in words.
        default: as it is written; None where one must be given.
        help: what it means.
    """

    name: str
    value: str
    default: str | None
    help: str


@dataclass(frozen=True)
class PassManual:
    """A pass in words.

    Attributes:
        name: in a pass text.
        does: what it does, a sentence or two.
        promise: what the pass manager holds it to.
        options: in the order of its fields.
    """

    name: str
    does: str
    promise: str
    options: tuple[OptionManual, ...]

    def to_json(self) -> dict[str, Any]:
        """The manual as JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [
            self.name,
            *textwrap.wrap(f"{self.does} ({self.promise})", 96, initial_indent="  ", subsequent_indent="  "),
        ]
        for option in self.options:
            default = f"; {option.default} by default" if option.default else ""
            told = f"{option.name}: {option.help.rstrip('.')} ({option.value}{default})"
            lines += textwrap.wrap(told, 96, initial_indent="    ", subsequent_indent="      ")
        return "\n".join(lines)


def manuals() -> Iterator[PassManual]:
    """The manuals of all passes that are registered, by name.

    >>> import gngraph.passes
    >>> [option.name for manual in manuals() if manual.name == "split-channels" for option in manual.options]
    ['space', 'count', 'channels']
    """
    for name, cls in sorted(REGISTRY.items()):
        yield _manual(name, cls)


def _manual(name: str, cls: type[Pass]) -> PassManual:
    text = inspect.getdoc(cls) or ""
    does = " ".join(text.split("\n\n")[0].split())
    _, _, attributes = text.partition("Attributes:\n")
    helps = {found[1]: " ".join(found[2].split()) for found in _ATTRIBUTE.finditer(attributes)}
    hints = get_type_hints(cls)
    options = tuple(
        OptionManual(
            field.name,
            described(hints[field.name], ";").replace("a text that is not empty", "text"),
            None if field.default in (None, dataclasses.MISSING) else option_text(field.default),
            helps.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
    )
    return PassManual(name, does, PROMISES[cls.effect], options)
