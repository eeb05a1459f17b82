"""Options as a TOML file: a table a record, a key a field."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gngraph.errors import OptionError


def toml_text(tables: Mapping[str, Any]) -> str:
    """Tables as TOML.

    Args:
        tables: texts, numbers, truth values, lists of these, and tables of all that, by names.

    >>> print(toml_text({"grow": {"max_params": 20000, "kinds": ["split"], "train": {"lr": 1e-05}}}))
    [grow]
    max_params = 20000
    kinds = ["split"]
    <BLANKLINE>
    [grow.train]
    lr = 1e-05
    """
    return "\n\n".join("\n".join(lines) for lines in _blocks(tables, ()))


def _blocks(table: Mapping[str, Any], path: tuple[str, ...]) -> list[list[str]]:
    own = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    heading = [f"[{'.'.join(path)}]"] if path and own else []
    # JSON is TOML for such values, but for a character that only JSON leaves as it is
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, value in own.items()
    ]
    inner = [
        block for key, value in table.items() if isinstance(value, Mapping) for block in _blocks(value, (*path, key))
    ]
    return [[*heading, *lines], *inner] if lines else inner


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; those of [tool.gngraph] where its name is pyproject.toml.

    Args:
        path: of the file.

    Raises:
        OptionError: it cannot be read, or is no TOML.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"configuration file '{path}' cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise OptionError(f"'{path}' is no TOML file: {error}") from error
    if path.name == "pyproject.toml":
        tool = found.get("tool", {})
        found = tool.get("gngraph", {}) if isinstance(tool, dict) else {}
    if not isinstance(found, dict):
        raise OptionError(f"'gngraph' in '{path}' must be a table, as in [tool.gngraph.data]")
    return found
