"""Python expressions as small trees, so that equal pieces of code are found and their differences become arguments."""

from __future__ import annotations

import json
import keyword
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from gngraph.errors import IRError
from gngraph.ops.spec import REQUIRED

WIDTH = 88
"""Longest line that is written: what formatters take when nothing is configured."""


@dataclass(frozen=True)
class Text:
    """Code as it stands."""

    text: str


@dataclass(frozen=True)
class Hole:
    """A constant that may differ between blocks of one class.

    Attributes:
        kind: constants of one kind that always agree become one argument; "width" for channel counts.
        label: where it stands, "conv1.out_channels"; names the argument.
        value: the constant.
    """

    kind: str
    label: str
    value: Any


@dataclass(frozen=True)
class Argument:
    """An argument of a call; one that has its default is left out, one without a default (`REQUIRED`) is always written."""

    value: Expr
    keyword: str = ""
    default: Any = REQUIRED


@dataclass(frozen=True)
class Build:
    """A call, or with other brackets a list, a dictionary or an index."""

    callee: str
    arguments: tuple[Argument, ...]
    brackets: Literal["()", "[]", "{}"] = "()"


@dataclass(frozen=True)
class Join:
    """Pieces of code beside each other."""

    parts: tuple[Expr, ...]


Expr = Text | Hole | Build | Join


def skeleton(expr: Expr) -> Any:
    """`expr` without the values of its holes, hashable: equal for code that differs in constants alone."""
    if isinstance(expr, Text):
        return expr.text
    if isinstance(expr, Hole):
        return ("hole", expr.kind)
    if isinstance(expr, Join):
        return tuple(skeleton(part) for part in expr.parts)
    return (expr.callee, expr.brackets, *((a.keyword, skeleton(a.value)) for a in expr.arguments))


def holes_of(expr: Expr, default: Any = REQUIRED) -> Iterator[tuple[Hole, Any]]:
    """The holes of `expr`, each with its default, in the order in which `render` takes their names."""
    if isinstance(expr, Hole):
        yield expr, default
    elif isinstance(expr, Join):
        for part in expr.parts:
            yield from holes_of(part)
    elif isinstance(expr, Build):
        for argument in expr.arguments:
            yield from holes_of(argument.value, argument.default)


def render(expr: Expr, names: Iterator[str | None]) -> str:
    """`expr` as code on one line; `names` gives for each hole the variable in its place, or None for its value.

    >>> render(Build("f", (Argument(Hole("n", "n", 3)), Argument(Hole("s", "s", 1), "s", 1))), iter([None, None]))
    'f(3)'
    """
    if isinstance(expr, Text):
        return expr.text
    if isinstance(expr, Hole):
        return next(names) or literal(expr.value)
    if isinstance(expr, Join):
        return "".join(render(part, names) for part in expr.parts)
    written = []
    for argument in expr.arguments:
        value = argument.value
        if isinstance(value, Hole):
            name = next(names)
            if name is None and same(value.value, argument.default):
                continue
            text = name or literal(value.value)
        else:
            text = render(value, names)
        written.append(f"{argument.keyword}={text}" if argument.keyword else text)
    return f"{expr.callee}{expr.brackets[0]}{', '.join(written)}{expr.brackets[1]}"


def same(a: Any, b: Any) -> bool:
    """Equality that tells True from 1 and 1 from 1.0."""
    return type(a) is type(b) and bool(a == b)


def literal(value: Any) -> str:
    """A constant as code.

    >>> literal((2, None, "a", torch.float32))
    '(2, None, "a", torch.float32)'

    Raises:
        IRError: it has no literal form.
    """
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        items = [literal(item) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, list):
        return f"[{', '.join(literal(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return str(value)
    raise IRError(f"the constant '{value!r}' of type '{type(value).__name__}' cannot be written as Python source")


def is_name(text: str) -> bool:
    """Whether `text` can stand as a name in code."""
    return text.isidentifier() and not keyword.iskeyword(text)


def checked_name(text: str, what: str) -> str:
    """`text`, which goes into code unquoted.

    Raises:
        IRError: it is no name, so that it could change the code around it.
    """
    if not is_name(text):
        raise IRError(f"{what} '{text}' is no Python name, so the graph cannot be written as Python source")
    return text


def camel(text: str) -> str:
    """A class name from a snake-case one; endings such as "block" are told apart.

    >>> camel("denseblock"), camel("encoder_layer")
    ('DenseBlock', 'EncoderLayer')
    """
    words = [word for word in "".join(c if c.isalnum() and c.isascii() else " " for c in text).split() if word]
    for ending in ("block", "layer", "unit", "stage"):
        if words and words[-1].endswith(ending) and words[-1] != ending:
            words[-1:] = [words[-1].removesuffix(ending), ending]
    return "".join(word[0].upper() + word[1:] for word in words)


def wrapped(code: str, indent: int) -> str:
    """One statement, indented, with its last bracket spread over lines where it is too long.

    A call of `nn.Sequential` with three parts or more is always spread.

    >>> print(wrapped("x = nn.Sequential(a(1, 2), b(), c())", 0))
    x = nn.Sequential(
        a(1, 2),
        b(),
        c(),
    )
    """
    head, items, tail = _last_bracket(code)
    line = " " * indent + code
    if not items or (len(line) <= WIDTH and not _is_spread(code)):
        return line
    compact = f"{' ' * (indent + 4)}{', '.join(items)}"
    if len(compact) <= WIDTH and not head.endswith(("nn.Sequential(", "OrderedDict(")):
        return f"{' ' * indent}{head}\n{compact}\n{' ' * indent}{tail}"
    body = [f"{wrapped(item, indent + 4)},\n" for item in items]
    return f"{' ' * indent}{head}\n{''.join(body)}{' ' * indent}{tail}"


def _is_spread(code: str) -> bool:
    """Whether `code` holds a sequence of three parts or more."""
    if "nn.Sequential(" not in code and "OrderedDict(" not in code:
        return False
    head, items, _ = _last_bracket(code)
    if head.endswith(("nn.Sequential(", "OrderedDict(")) and len(items) > 2:
        return True
    return any(_is_spread(item) for item in items)


def _last_bracket(code: str) -> tuple[str, list[str], str]:
    """Code up to the bracket that its end closes, the items in the bracket, and the end."""
    opened: list[int] = []
    commas: dict[int, list[int]] = {}
    quoted = escaped = False
    last = -1
    for position, character in enumerate(code):
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "([{":
            opened.append(position)
        elif character in ")]}":
            last = opened.pop()
        elif character == "," and opened:
            commas.setdefault(opened[-1], []).append(position)
    if last < 0 or code[-1] not in ")]}":
        return code, [], ""
    ends = [last, *commas.get(last, ()), len(code) - 1]
    items = [code[start + 1 : end].strip() for start, end in pairwise(ends)]
    return code[: last + 1], [item for item in items if item], code[-1]
