"""Checkpoints of a run: two files each, tensors as safetensors and the rest as JSON, of which the newest two are kept.

The JSON is renamed into place last and says which tensors it goes with, so that a checkpoint is there or not. Where the newest is
damaged all the same, the run goes on from the one before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from gngraph.errors import GnGraphError
from gngraph.writing import replacing

CHECKPOINTS = "checkpoints"
"""Folder in that of a run."""

LONGEST = 300.0
"""Seconds after which a stage that goes on is kept in the midst of it."""

MOST_SPENT = 0.01
"""Share of a run's seconds that checkpoints may take, where nobody says how often they are wanted."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run was when it was kept.

    Attributes:
        number: of the checkpoint.
        record: all but the tensors, as JSON.
        tensors: by name, each in memory of its own.
    """

    number: int
    record: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]


class Checkpoints:
    """Those of a run that goes on.

    Args:
        folder: of the run.
        every: seconds from one to the next; None: at the end of every epoch and stage and after `LONGEST` seconds, as far as they
            take no more than `MOST_SPENT` of the time.
        last: number of the one that the run goes on from; 0: it begins.
    """

    def __init__(self, folder: Path, every: float | None, last: int = 0) -> None:
        self._path = folder / CHECKPOINTS
        self._every = every
        self._last = last
        self._started = self._kept = time.perf_counter()
        self._cost = self._spent = 0.0

    def due(self, boundary: bool) -> bool:
        """Whether one is to be written now; `boundary`: at the end of an epoch or a stage."""
        now = time.perf_counter()
        if self._every is not None:
            return now - self._kept >= self._every
        if not boundary and now - self._kept < LONGEST:
            return False
        return self._spent + self._cost <= MOST_SPENT * (now - self._started)

    def keep(self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Write one; all but that and the one before it are removed, and what killed processes left of others.

        Raises:
            GnGraphError: it cannot be written; those before it are whole.
        """
        started = time.perf_counter()
        weights = safetensors.torch.save(dict(tensors), {"format": "pt"})
        sums = {"record": _digest(_text(record).encode()), "tensors": _digest(weights)}
        try:
            self._path.mkdir(exist_ok=True)
            number = max([self._last, *_numbers(self._path)]) + 1
            files = _files(self._path, number)
            with replacing(*files) as (first, second):
                first.write_bytes(weights)
                second.write_text(_text({"sha256": sums, "record": record}), encoding="utf-8")
            kept = {*files, *_files(self._path, self._last)}
            for path in self._path.iterdir():
                if path not in kept:
                    path.unlink()
        except OSError as error:
            raise GnGraphError(
                f"the checkpoint in '{self._path}' cannot be written: {error.strerror or error}"
            ) from error
        self._last, self._kept = number, time.perf_counter()
        self._cost = self._kept - started
        self._spent += self._cost


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole; None where there is none.

    Args:
        folder: of the run.
    """
    path = folder / CHECKPOINTS
    for number in sorted(_numbers(path), reverse=True):
        found = _read(path, number)
        if found is not None:
            return found
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove those of a run that has ended.

    Args:
        folder: of the run.
    """
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _read(path: Path, number: int) -> Checkpoint | None:
    tensors, rest = _files(path, number)
    try:
        whole = json.loads(rest.read_text(encoding="utf-8"))
        record, sums = whole["record"], whole["sha256"]
        weights = tensors.read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sums != {"record": _digest(_text(record).encode()), "tensors": _digest(weights)}:
        return None
    # copies lie in memory as tensors of torch do, on which the order of sums may depend
    return Checkpoint(number, record, {name: t.clone() for name, t in safetensors.torch.load(weights).items()})


def _files(path: Path, number: int) -> tuple[Path, Path]:
    return path / f"{number:06}.safetensors", path / f"{number:06}.json"


def _numbers(path: Path) -> list[int]:
    """Of all checkpoints, whole or not."""
    return [int(file.stem) for file in path.glob("*.json") if file.stem.isdecimal()]


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
