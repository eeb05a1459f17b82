"""The tokens of the graph text form."""

from __future__ import annotations

import json
import re
from typing import Literal, NamedTuple, cast

from gngraph.errors import ParseError

TokenKind = Literal["name", "string", "value", "param", "number", "mark", "end"]

_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
_PATH = r"[A-Za-z0-9_][A-Za-z0-9_.]*"
_TOKEN = re.compile(
    rf"""
    (?P<space> [ \t\r\n]+ | \#[^\n]* )
  | (?P<string> {_QUOTED} )
  | (?P<value> % (?: {_PATH} | {_QUOTED} ) )
  | (?P<param> @ (?: {_PATH} | {_QUOTED} ) )
  | (?P<number> -? (?: [0-9]+ (?: \.[0-9]* )? (?: [eE][+-]?[0-9]+ )? | inf | nan ) (?![A-Za-z0-9_.]) )
  | (?P<name> [A-Za-z_][A-Za-z0-9_.]* )
  | (?P<mark> [(){{}}\[\]=,:!] )
    """,
    re.VERBOSE,
)
_BARE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_BARE_PATH = re.compile(_PATH)
_NUMBER_WORDS = frozenset({"inf", "nan"})


class Token(NamedTuple):
    """One token: its kind, its text (sigils, quotes and escapes removed) and where it starts in the source."""

    kind: TokenKind
    text: str
    offset: int


def quote(text: str) -> str:
    r"""`text` in double quotes, with JSON escapes for everything outside printable ASCII.

    >>> print(quote('say "a"'))
    "say \"a\""
    """
    return json.dumps(text)


def bare_or_quoted(text: str) -> str:
    """`text` as a word: bare where it reads as one, quoted otherwise.

    >>> bare_or_quoted("stride"), bare_or_quoted("a b"), bare_or_quoted("inf")
    ('stride', '"a b"', '"inf"')
    """
    return text if _BARE_NAME.fullmatch(text) and text not in _NUMBER_WORDS else quote(text)


def with_sigil(sigil: str, name: str) -> str:
    """A value (`%`) or parameter (`@`) name, quoted where it needs to be.

    >>> with_sigil("@", "features.0.weight"), with_sigil("%", "a-b")
    ('@features.0.weight', '%"a-b"')
    """
    return sigil + (name if _BARE_PATH.fullmatch(name) else quote(name))


def error_at(source: str, offset: int, message: str) -> ParseError:
    """A ParseError for position `offset` of `source`.

    Args:
        source: the whole text.
        offset: characters before the place, from which line and column are counted.
        message: a sentence without the place.
    """
    line = source.count("\n", 0, offset) + 1
    return ParseError(message, line, offset - source.rfind("\n", 0, offset))


def tokenize(source: str) -> list[Token]:
    """The tokens of `source`, closed by one of kind "end"; in O(len(source)).

    Raises:
        ParseError: a character that starts no token, or a bad escape in a quoted word.
    """
    tokens: list[Token] = []
    offset = 0
    while offset < len(source):
        match = _TOKEN.match(source, offset)
        if match is None:
            what = "this quoted text has no end" if '"' in source[offset : offset + 2] else "no word starts like this"
            raise error_at(source, offset, f"{what}: {source[offset : offset + 12].splitlines()[0]!r}")
        if match.lastgroup != "space":
            kind, text = cast(TokenKind, match.lastgroup), match.group()
            sigil = kind in ("value", "param")
            tokens.append(Token(kind, _plain(source, offset + sigil, text[sigil:]), offset))
        offset = match.end()
    tokens.append(Token("end", "the end of the text", offset))
    return tokens


def _plain(source: str, offset: int, text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError as error:
        raise error_at(source, offset, f"the quoted text {text} has an escape that JSON does not know") from error
