"""A table, .csv or .tsv with a line of column names or .parquet; one or more columns are what is to be predicted."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gngraph.data.arrays import Array
from gngraph.data.dataset import Data
from gngraph.data.sources.named_arrays import NamedArrays
from gngraph.data.sources.request import Request, TableFile
from gngraph.data.sources.sentences import from_sentences
from gngraph.errors import DataError, choices

PARQUET = ".parquet"
TABLES = (".csv", ".tsv", PARQUET)
"""Endings of the files."""

_SOME = 20
"""Whole numbers of more values than this are told of where they are taken for classes."""


@dataclass(frozen=True)
class _Table:
    """Columns as text, an empty one where nothing is known.

    Attributes:
        path: of the file.
        columns: cells by the name of their column.
        first: number of the first row, as people count in such a file.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    first: int


def load_table(request: Request) -> Data | NamedArrays:
    """Reads the table at the path `request.spec`.

    Targets that are text, or whole numbers unless they are asked for as numbers, are classes, named by their values; other numbers
    are those of a regression, and so are several columns. Where the one input is text, samples are its tokens.

    Raises:
        DataError: no target is named, a column is not there, or a cell that is needed is no number.
    """
    path = Path(request.spec).expanduser()
    table = _read_parquet(path) if path.suffix.lower() == PARQUET else _read(path)
    names = list(table.columns)
    wanted = request.table or TableFile(request.spec)
    if not wanted.target:
        raise DataError(
            f"'{path}' is a table: name the column that is to be predicted (--target), one of {', '.join(names)}"
        )
    for column in (*wanted.target, *wanted.features):
        if column not in names:
            raise DataError(f"table '{path}' has no column '{column}'{choices(column, names)}")
    features = wanted.features or tuple(name for name in names if name not in wanted.target)
    both = [name for name in wanted.target if name in features]
    if both or not features:
        wrong = f"column '{both[0]}' is a target and an input" if both else "no column is left as an input"
        raise DataError(f"in table '{path}' {wrong}")
    targets, notes = _targets(table, wanted)
    if len(features) == 1 and not all(map(_is_number, table.columns[features[0]])) and not _gaps(table, features[0]):
        data = from_sentences(
            path.name, table.columns[features[0]], targets["y_train"], targets.get("classes"), request
        )
    elif request.tokenizer is not None:
        raise DataError(f"the inputs in '{path}' are numbers, which no tokenizer reads: leave the tokenizer out")
    else:
        x = np.stack([_numbers(table, name, "an input") for name in features], 1)
        return NamedArrays(path.name, f"'{path}'", {"x_train": x, **targets}, notes)
    return replace(data, notes=(*notes, *data.notes))


def _targets(table: _Table, wanted: TableFile) -> tuple[dict[str, Array], tuple[str, ...]]:
    """What is to be predicted, as an archive holds it, and what there is to know of it."""
    if len(wanted.target) == 1 and not wanted.numbers and _classes(table.columns[wanted.target[0]]):
        values = table.columns[wanted.target[0]]
        known = sorted({*values}, key=lambda value: (float(value) if _is_whole(value) else 0.0, value))
        notes: tuple[str, ...] = ()
        if len(known) > _SOME and all(map(_is_whole, known)):
            notes = (
                f"'{wanted.target[0]}' is taken for {len(known)} classes, for it holds whole numbers (see --loss mse)",
            )
        numbers = {value: number for number, value in enumerate(known)}
        return {"y_train": np.array([numbers[value] for value in values]), "classes": np.array(known)}, notes
    targets = np.stack([_numbers(table, name, "a target") for name in wanted.target], 1)
    if not wanted.numbers and len(wanted.target) > 1 and bool(((targets == 0) | (targets == 1)).all()):
        raise DataError(
            f"the targets in '{table.path}' are all 0 or 1: name the loss, bce-with-logits for yes-or-no answers, or mse (--loss)"
        )
    return {"y_train": targets}, ()


def _read(path: Path) -> _Table:
    """A table as text."""
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
    return _Table(path, dict(zip(names, zip(*rows, strict=True), strict=True)), 2)


def _read_parquet(path: Path) -> _Table:
    """A table by polars or pandas, whichever is there."""
    try:
        columns = _columns(path)
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{path}' needs the package 'polars', or 'pandas' with 'pyarrow': install one (pip install polars), or write a .csv"
        ) from error
    except Exception as error:  # whatever they raise of a damaged file
        raise DataError(f"'{path}' is not a readable table: {' '.join(str(error).split())}") from error
    if not columns or not any(columns.values()):
        raise DataError(f"'{path}' holds no row")
    return _Table(path, {name: [_cell(value) for value in column] for name, column in columns.items()}, 1)


def _columns(path: Path) -> dict[str, list[Any]]:
    try:
        import polars

        frame = polars.read_parquet(path)
        return {str(name): frame[name].to_list() for name in frame.columns}
    except ModuleNotFoundError:
        import pandas

        table = pandas.read_parquet(path)
        return {str(name): table[name].tolist() for name in table.columns}


def _cell(value: Any) -> str:
    """The text of a value: 1 and 0 of yes and no, nothing where it is unknown."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def _gaps(table: _Table, name: str) -> bool:
    """Whether a column holds numbers but for gaps and what else is no number by mistake: half of the cells or more are numbers."""
    cells = table.columns[name]
    return 2 * sum(map(_is_number, cells)) >= len(cells)


def _numbers(table: _Table, name: str, what: str) -> Array:
    for number, cell in enumerate(table.columns[name], table.first):
        if not _is_number(cell):
            held = f"'{cell[:40]}'" if cell else "nothing"
            raise DataError(
                f"column '{name}' of '{table.path}' holds {held} in row {number}, but {what} must be a number: leave the column "
                f"out (--features names those that count), or write it as numbers"
            )
    return np.array(table.columns[name], dtype=np.float64)


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
