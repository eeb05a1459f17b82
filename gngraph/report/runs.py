"""Runs, as reports read them: from what a run gave, or from the folder that it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gngraph.errors import GnGraphError
from gngraph.files.archive import load, load_history
from gngraph.files.runs import MODEL_FILE, SEED_FILE
from gngraph.growth.channel_records import CHANNELS_FILE
from gngraph.growth.history import HISTORY_FILE, Record, read_history
from gngraph.growth.result import GrowthResult
from gngraph.growth.run_folder import BEGUN_FILE, COMPARISON_FILE
from gngraph.ir import Graph


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """What a report tells of.

    Attributes:
        name: of its folder.
        history: its records; at least one.
        channels: its channel records; none of runs before there were any.
        seed, graph: the network before and after; None where the folder has them no more.
        comparison: networks that were trained for as long beside it, see docs/history.md.
        lineage: space -> for each channel of `graph` its source in `seed`.
        tested: what tells the samples that it was measured on from others; None: that is not known.
    """

    name: str
    history: Sequence[Record]
    channels: Sequence[Record] = ()
    seed: Graph | None = None
    graph: Graph | None = None
    lineage: Mapping[str, Sequence[int]] | None = None
    comparison: Sequence[Record] = ()
    tested: str | None = None

    @property
    def rounds(self) -> list[Record]:
        """The records of rounds that rewrote the network."""
        return [record for record in self.history if record["kind"] == "round"]

    @classmethod
    def of(cls, result: GrowthResult, folder: Path) -> ReportedRun:
        """A run that just ended, with what its folder has beside it."""
        own = (result.history, result.channels, result.seed, result.graph, result.lineage)
        return cls(folder.resolve().name, *own, compared(folder), measured_on(folder))


def read_run(folder: Path) -> ReportedRun:
    """The run in a folder, whether it ended or goes on.

    Raises:
        GnGraphError: the folder holds no run, or a damaged one.
    """
    if not (folder / HISTORY_FILE).is_file():
        raise GnGraphError(
            f"'{folder}' holds no run: it has no {HISTORY_FILE}; name the folder that a run was written to"
        )
    history = read_history(folder / HISTORY_FILE)
    if not history:
        raise GnGraphError(f"the run in '{folder}' has finished no round yet, so that there is nothing to report")
    last = {record.get("round") for record in history}
    path = folder / CHANNELS_FILE
    channels = [record for record in read_history(path) if record.get("round") in {0, *last}] if path.is_file() else []
    beside, tested = compared(folder), measured_on(folder)
    seed, model = folder / SEED_FILE, folder / MODEL_FILE
    if not (seed.is_file() and model.is_file()):
        return ReportedRun(folder.resolve().name, history, channels, comparison=beside, tested=tested)
    kept = load_history(model)
    lineage = kept.get("lineage") if isinstance(kept, dict) else None
    return ReportedRun(folder.resolve().name, history, channels, load(seed), load(model), lineage, beside, tested)


def compared(folder: Path) -> list[Record]:
    """The networks that were trained beside the run in a folder."""
    path = folder / COMPARISON_FILE
    return read_history(path) if path.is_file() else []


def measured_on(folder: Path) -> str | None:
    """What tells the samples that the run in a folder was measured on from others, where it kept that."""
    path = folder / BEGUN_FILE
    return str(read_history(path)[0]["identity"]["test samples"]) if path.is_file() else None
