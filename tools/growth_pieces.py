"""Pieces of a table: training and growth that end where a piece's time is over, and go on in the next one."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.growth.checkpoints import Checkpoints, newest
from gngraph.growth.history import Lineage
from gngraph.growth.jobs import Task
from gngraph.growth.journal import Journal
from gngraph.growth.keeping import Keeper, Kept, unpacked
from gngraph.growth.result import GrowthResult
from gngraph.growth.rounds import Rounds
from gngraph.growth.state import RunState
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.search.chance import may_know
from gngraph.training.optimizer_state import OptimizerState
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trained, Trainer

COUNTED_FILE = "counted.json"
"""FLOPs of a search that were counted so far, beside the checkpoints of its run."""


class PieceOver(Exception):
    """The time of a piece is over; what was begun is kept, and goes on in the next."""


@dataclass(frozen=True)
class Piece:
    """A part of the work on a table.

    Attributes:
        until: when it is over, in seconds of the clock, of which all processes have the same.
    """

    until: float = math.inf

    @classmethod
    def of(cls, minutes: float | None) -> Piece:
        """One that begins now; None: it has no end."""
        return cls() if minutes is None else cls(time.time() + 60 * minutes)

    def require(self) -> None:
        """Go on only while there is time.

        Raises:
            PieceOver: there is none.
        """
        if self.over:
            raise PieceOver

    @property
    def over(self) -> bool:
        """Whether there is no time left."""
        return time.time() >= self.until


ENDLESS = Piece()
"""All of the work at once."""


class _Keeper(Keeper):
    """Keeps what was begun, and ends it at the first end of an epoch or a stage for which there is no time."""

    def __init__(self, folder: Path, piece: Piece, last: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(Checkpoints(folder, None, last), {})
        self._piece = piece

    def due(self, boundary: bool) -> bool:
        return (boundary and self._piece.over) or super().due(boundary)

    def keep(self, state: RunState, journal: Journal, torchs: torch.Tensor | None = None) -> None:
        super().keep(state, journal, torchs)
        self._piece.require()


def _begun(folder: Path) -> tuple[Kept | None, int]:
    """What is kept in a folder, and the number of the checkpoint; 0 where nothing is."""
    kept = newest(folder)
    return (None, 0) if kept is None else (unpacked(kept), kept.number)


def trained_on(trainer: Trainer, graph: Graph, stretch: Stretch, folder: Path, piece: Piece) -> tuple[Trained, float]:
    """A network after a stretch of training, or what is left of it; and the seconds that earlier pieces spent.

    Args:
        trainer: of the stretch.
        graph: before it; where it was begun, that which is kept counts.
        stretch: the whole of it.
        folder: of this training alone, which goes at its end.
        piece: in which it is to be done.

    Raises:
        PieceOver: there was no time for all of it.
    """
    found, last = _begun(folder)
    state = _fresh(graph) if found is None else found.state
    keeper, done = _Keeper(folder, piece, last), state.progress
    watch = keeper.watch(state, Journal(state.graph, state.lineage, None, None))
    trained = trainer.train(state.graph, stretch, watch=watch, done=done)
    shutil.rmtree(folder)
    spent = 0.0 if done is None else sum(e.seconds for e in done.epochs) + (done.part.seconds if done.part else 0.0)
    return trained, spent


def grown_on(
    task: Task, graph: Graph, problem: Problem, counts: SearchFlops, folder: Path, piece: Piece
) -> GrowthResult:
    """A run of growth, as `gngraph.growth.loop.grow_by` makes it, or what is left of it.

    Args:
        task: of the run; its options leave nothing to be decided.
        graph: its seed network.
        problem: data, loss, device and seed.
        counts: the FLOPs of its search.
        folder: of this run alone, which goes at its end.
        piece: in which it is to be done.

    Raises:
        PieceOver: there was no time for all of it.
    """
    found, last = _begun(folder)
    fresh = replace(_fresh(graph), share=task.options.share, doubted=may_know(graph, problem))
    state = fresh if found is None else found.state
    counts.begin(folder / COUNTED_FILE, new=found is None)
    journal = Journal(graph, state.lineage, counts, None, None if found is None else found.journal)
    result = Rounds(task, graph, problem, journal, state, _Keeper(folder, piece, last)).to_end()
    shutil.rmtree(folder)
    return result


def _fresh(graph: Graph) -> RunState:
    return RunState(graph, OptimizerState({}), Lineage.begun(ChannelSpaces.of(graph)), 0.0, False)


class SearchFlops:
    """Counts the FLOPs of the search in a run of growth, that of earlier pieces among them.

    Args:
        counted: stages that are search.
        counter: makes what counts while a stage runs.
    """

    def __init__(self, counted: tuple[str, ...], counter: Any) -> None:
        self.counted, self._make = counted, counter
        self._of: dict[str, int] = {}
        self._running: Any = None
        self._path: Path | None = None

    @property
    def flops(self) -> int:
        """Of all rounds."""
        return sum(self._of.values())

    def begin(self, path: Path, *, new: bool) -> None:
        """Count on from what a file says, unless the run is new."""
        self._path = path
        self._of = {} if new or not path.exists() else json.loads(path.read_text(encoding="utf-8"))

    def stage_started(self, number: int, stage: str) -> None:
        """See `gngraph.growth.observer.Observer`."""
        if stage == "analyse":
            self._of[f"{number} decided"] = 0  # what an interruption left of a decision is done again
        if stage in self.counted:
            self._running = self._make()
            self._running.__enter__()

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """See `gngraph.growth.observer.Observer`."""
        if self._running is None:
            return
        self._running.__exit__(None, None, None)
        key = f"{number} decided" if f"{number} decided" in self._of else f"{number} before"
        self._of[key] = self._of.get(key, 0) + self._running.flops
        self._running = None
        if self._path is not None:
            self._path.write_text(json.dumps(self._of), encoding="utf-8")
