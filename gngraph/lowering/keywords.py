"""Modules and parameters whose names are words of Python's: torch.fx writes `self.class`, which is no code."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable

from torch import fx

_CODE = list[str]


def with_readable_names(graph: fx.Graph) -> fx.Graph:
    """Let the code of a graph read by `getattr` what stands under a keyword.

    Args:
        graph: is changed.
    """
    paths = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    written = {_as_fx_writes(path): _readable(path) for path in paths if any(map(keyword.iskeyword, path.split(".")))}
    if written:
        pattern = re.compile("|".join(rf"{re.escape(text)}(?!\w)" for text in sorted(written, key=len, reverse=True)))

        def readable(body: _CODE) -> _CODE:
            return [pattern.sub(lambda found: written[found.group()], line) for line in body]

        graph.on_generate_code(lambda before: _chained(before, readable))
    return graph


def _chained(first: Callable[[_CODE], _CODE] | None, second: Callable[[_CODE], _CODE]) -> Callable[[_CODE], _CODE]:
    return second if first is None else lambda body: second(first(body))


def _as_fx_writes(path: str) -> str:
    return _joined(path, str.isidentifier)


def _readable(path: str) -> str:
    return _joined(path, lambda part: part.isidentifier() and not keyword.iskeyword(part))


def _joined(path: str, plain: Callable[[str], bool]) -> str:
    code = "self"
    for part in path.split("."):
        code = f"{code}.{part}" if plain(part) else f'getattr({code}, "{part}")'
    return code
