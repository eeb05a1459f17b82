"""A table as text, .csv or .tsv, with a line of column names; one or more columns are what is to be predicted."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gngraph.data.arrays import Array
from gngraph.data.dataset import Data
from gngraph.data.sources.npz import from_parts
from gngraph.data.sources.request import Request, TableFile
from gngraph.errors import DataError, choices

TABLES = (".csv", ".tsv")
"""Endings of the files."""

_SOME = 20
"""Whole numbers of more values than this are told of where they are taken for classes."""


def load_table(request: Request) -> Data:
    """Reads the table at the path `request.spec`.

    Targets that are text, or whole numbers unless they are asked for as numbers, are classes, named by their values; other numbers
    are those of a regression, and so are several columns.

    Raises:
        DataError: no target is named, a column is not there, or a cell that is needed is no number.
    """
    path = Path(request.spec).expanduser()
    names, rows = _read(path)
    wanted = request.table or TableFile(request.spec)
    if not wanted.target:
        raise DataError(
            f"'{path}' is a table: name the column that is to be predicted (--target), one of {', '.join(names)}"
        )
    for column in (*wanted.target, *wanted.features):
        if column not in names:
            raise DataError(f"table '{path}' has no column '{column}'{choices(column, names)}")
    features = wanted.features or [name for name in names if name not in wanted.target]
    both = [name for name in wanted.target if name in features]
    if both or not features:
        wrong = f"column '{both[0]}' is a target and an input" if both else "no column is left as an input"
        raise DataError(f"in table '{path}' {wrong}")
    cells = {name: [row[names.index(name)] for row in rows] for name in (*features, *wanted.target)}
    x = np.stack([_numbers(path, name, cells[name], "an input") for name in features], 1)
    parts: dict[str, Array] = {"x_train": x}
    notes: tuple[str, ...] = ()
    if len(wanted.target) == 1 and not wanted.numbers and _classes(cells[wanted.target[0]]):
        values = cells[wanted.target[0]]
        known = sorted({*values}, key=lambda value: (float(value) if _is_whole(value) else 0.0, value))
        parts |= {"y_train": np.array([known.index(value) for value in values]), "classes": np.array(known)}
        if len(known) > _SOME and all(map(_is_whole, known)):
            notes = (
                f"'{wanted.target[0]}' is taken for {len(known)} classes, for it holds whole numbers (see --loss mse)",
            )
    else:
        targets = np.stack([_numbers(path, name, cells[name], "a target") for name in wanted.target], 1)
        if not wanted.numbers and len(wanted.target) > 1 and bool(((targets == 0) | (targets == 1)).all()):
            raise DataError(
                f"the targets in '{path}' are all 0 or 1: name the loss, bce-with-logits for yes-or-no answers, or mse (--loss)"
            )
        parts["y_train"] = targets
    data = from_parts(path.name, f"'{path}'", parts, request)
    return replace(data, notes=(*notes, *data.notes))


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            between = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
            file.seek(0)
            lines = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=between) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' is not a readable table: write it as UTF-8 text ({error})") from error
    if len(lines) < 2:
        raise DataError(f"'{path}' holds no row: its first line is taken for the names of the columns")
    names, *rows = lines
    if len({*names}) < len(names) or "" in names or any(_is_number(name) for name in names):
        raise DataError(
            f"the first line of '{path}' must name the columns, each once; it is '{', '.join(names)[:120]}'"
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(f"row {number} of '{path}' has {len(row)} cells, but there are {len(names)} columns")
    return names, rows


def _numbers(path: Path, name: str, cells: Sequence[str], what: str) -> Array:
    for number, cell in enumerate(cells, 2):
        if not _is_number(cell):
            held = f"'{cell}'" if cell else "nothing"
            raise DataError(
                f"column '{name}' of '{path}' holds {held} in row {number}, but {what} must be a number: leave the column out "
                f"(--features names those that count), or write it as numbers"
            )
    return np.array(cells, dtype=np.float64)


def _classes(cells: Sequence[str]) -> bool:
    """Whether cells are the names of classes: whole numbers, or not all numbers; none is empty."""
    return all(cells) and (all(map(_is_whole, cells)) or not any(map(_is_number, cells)))


def _is_whole(cell: str) -> bool:
    return cell.removeprefix("-").isdecimal()


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False
