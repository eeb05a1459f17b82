"""A run once more, from its seed network and what it was given: each round must be the one that is recorded."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gngraph.errors import GnGraphError
from gngraph.files.runs import MODEL_FILE, ROUNDS
from gngraph.growth.channel_records import CHANNELS_FILE
from gngraph.growth.history import HISTORY_FILE, Record, read_history, without_seconds
from gngraph.growth.identity import THREADS
from gngraph.growth.keeping import begun_again
from gngraph.growth.loop import grow_by
from gngraph.growth.observer import observers_of
from gngraph.growth.result import GrowthResult
from gngraph.growth.run_folder import BEGUN_FILE, REPORT_FILE
from gngraph.ranks import here
from gngraph.running.problem import Problem
from gngraph.running.threads import with_threads


def begun_in(folder: Path) -> Record:
    """How the run in a folder began, see `gngraph.growth.keeping.begun_as`.

    Args:
        folder: of a run that has ended.

    Raises:
        GnGraphError: it holds none, or one that cannot be repeated.
    """
    if not (folder / REPORT_FILE).is_file():
        raise GnGraphError(
            f"'{folder}' holds no run that has ended; end it first by gngraph resume, or name another folder"
        )
    if not (folder / BEGUN_FILE).is_file():
        raise GnGraphError(f"'{folder}' has no {BEGUN_FILE}, which says how its run began: it cannot be repeated")
    (begun,) = read_history(folder / BEGUN_FILE)
    return begun


def replayed(folder: Path, begun: Record, problem: Problem, observer: object = None) -> GrowthResult:
    """The run in a folder once more, in a folder of its own that goes again; all that it gives is compared, but for seconds.

    Args:
        folder: of the run, which stays as it is.
        begun: how it began.
        problem: as it was when the run began.
        observer: told what goes on.

    Raises:
        GnGraphError: something that the run depends on is another, or a round is not the one that is recorded, or the network is
            not; and as for `grow_by`.
    """
    task, seed = begun_again(begun, problem, folder)
    history = here().by_first(lambda: read_history(folder / HISTORY_FILE))
    if any("latency" in record for record in history):
        raise GnGraphError(
            f"the run in '{folder}' decided by milliseconds that were measured while it went on, which no other measures again: it "
            f"cannot be repeated"
        )
    compared = [_Compared(folder, history), observers_of(observer)]
    with tempfile.TemporaryDirectory() as own, with_threads(begun["identity"][THREADS]):
        again = Path(own) / "run"
        unlogged = replace(task, options=replace(task.options, log=()))
        result = grow_by(unlogged, seed, problem, out=again, observer=compared)
        here().by_first(lambda: _require_same_files(folder, again))
    return result


class _Compared:
    """Holds each round against the one that is recorded, when it ends."""

    def __init__(self, folder: Path, history: list[Record]) -> None:
        self._folder, self._left = folder, [*history]

    def round_finished(self, record: Record) -> None:
        """A round ended."""
        if not self._left:
            raise GnGraphError(f"the run in '{self._folder}' has fewer rounds than its options ask for")
        was, now = (without_seconds(json.loads(json.dumps(one))) for one in (self._left.pop(0), record))
        for name in dict.fromkeys((*was, *now)):
            if was.get(name) != now.get(name):
                number = "the final training" if record["kind"] == "final" else f"round {record['round']}"
                raise GnGraphError(
                    f"{number} of the run in '{self._folder}' came out otherwise than it is recorded: {name} is "
                    f"{_short(now.get(name))}, but was {_short(was.get(name))}"
                )


def _require_same_files(folder: Path, again: Path) -> None:
    rounds = sorted(str(path.relative_to(again)) for path in (again / ROUNDS).glob("*.gng"))
    for name in (MODEL_FILE, CHANNELS_FILE, *(name for name in rounds if (folder / name).exists())):
        if (folder / name).read_bytes() != (again / name).read_bytes():
            raise GnGraphError(
                f"every round of the run in '{folder}' came out as it is recorded, but '{folder / name}' is not what they gave: it "
                f"was changed since"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
