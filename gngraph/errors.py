"""The exceptions gngraph raises on purpose.

Every message is one sentence that says what happened (with the values in quotes), where, and what to do.
Everything derives from `GnGraphError`, so a caller can tell a refusal by gngraph from a defect in it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable


class GnGraphError(Exception):
    """Base of every error that gngraph raises on purpose."""


class IRError(GnGraphError):
    """A graph breaks an invariant of the IR; the graph that was being edited is unchanged."""


class ParseError(GnGraphError):
    """A text could not be parsed.

    Attributes:
        line: line number, counted from 1.
        column: column number, counted from 1.

    Args:
        message: a sentence without the place, which is put before it.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column


class UnsupportedModelError(GnGraphError):
    """A module cannot be traced faithfully, or has a feature that gngraph refuses to guess about."""


class ModelFileError(GnGraphError):
    """A model file cannot be loaded, or would run code when loaded."""


class FrozenSpaceError(GnGraphError):
    """A morphism names a channel space that must not change; the message gives the reason."""


class FunctionChangedError(GnGraphError):
    """A rewrite that must preserve the function changed it.

    Attributes:
        error: largest absolute output difference divided by the largest absolute output.
        tolerance: the largest error that would have been accepted.

    Args:
        message: a sentence that names the rewrite and the graph.
    """

    def __init__(self, message: str, error: float, tolerance: float) -> None:
        super().__init__(message)
        self.error = error
        self.tolerance = tolerance


class ArchiveError(GnGraphError):
    """A gngraph archive is damaged, of another version, or holds what it must not."""


class PassError(GnGraphError):
    """A pass or pass text is unknown, has a wrong option, or cannot apply."""


class OptionError(GnGraphError):
    """An option of a run is unknown, of the wrong type or out of range; nothing was trained or written."""


class DataError(GnGraphError):
    """A data set is missing, malformed, or does not fit the model."""


class BudgetError(GnGraphError):
    """A budget cannot be met, or a count is malformed."""


class TrainingError(GnGraphError):
    """Training cannot go on, for example because the loss is not finite."""


class GnGraphNote(UserWarning):
    """Something that gngraph did with what it was given, and that is worth knowing; a warning, and a line of the command line."""


def path_text(path: object) -> str:
    """A path as text.

    Raises:
        GnGraphError: it is none, or no file can have it.
    """
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        raise GnGraphError(f"a path is text or a pathlib.Path, but a '{type(path).__name__}' was given") from None
    if not isinstance(text, str) or "\0" in text:
        raise GnGraphError(f"{text!r} is not the path of a file; give text without zero bytes")
    return text


def choices(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest known name, and all of them.

    >>> choices("spilt", ["split", "prune"])
    "; did you mean 'split'? Choose from prune, split"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return (f"; did you mean '{close[0]}'? Choose" if close else "; choose") + f" from {', '.join(names) or 'none'}"
