"""What a checkpoint of a run holds: how the run began, its state, its account, and the random states of the process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gngraph.errors import GnGraphError
from gngraph.files.archive import load
from gngraph.growth.checkpoints import Checkpoint, Checkpoints
from gngraph.growth.history import Record
from gngraph.growth.identity import identity_of, require_same
from gngraph.growth.jobs import JOBS, Task
from gngraph.growth.journal import Journal
from gngraph.growth.randomness import RandomStates
from gngraph.growth.run_folder import SEED_FILE
from gngraph.growth.state import RunState, as_laid_out, laid_out
from gngraph.ir import Graph
from gngraph.ir.fingerprint import fingerprint
from gngraph.options import Options
from gngraph.running.problem import Problem
from gngraph.training.progress import Progress, Watch


def begun_as(options: Options, graph: Graph, problem: Problem, source: Record | None) -> Record:
    """How a run began, as JSON.

    Args:
        options: of its job.
        graph: the seed network.
        problem: of the run.
        source: of its data, see `gngraph.growth.loop.grow_by`.
    """
    own = {"job": options.title, "options": options.as_dict(), "network": fingerprint(graph)}
    return own | {"identity": identity_of(problem), "source": source}


def begun_again(begun: Record, problem: Problem, folder: Path) -> tuple[Task, Graph]:
    """Task and seed network of a run that goes on.

    Args:
        begun: what `begun_as` gave.
        problem: that it is to go on with.
        folder: of the run.

    Raises:
        GnGraphError: something that the run depends on is another.
    """
    require_same(begun["identity"], problem, folder)
    graph = load(folder / SEED_FILE)
    if fingerprint(graph) != begun["network"]:
        raise GnGraphError(f"'{folder / SEED_FILE}' is not the network that the run in '{folder}' began with")
    job = JOBS[begun["job"]]
    return job.task(job.options.of(begun["options"]), graph), graph


class Keeper:
    """Keeps a run.

    Args:
        checkpoints: of the run.
        begun: what `begun_as` gave.
    """

    def __init__(self, checkpoints: Checkpoints, begun: Record) -> None:
        self._checkpoints = checkpoints
        self._begun = begun

    def due(self, boundary: bool) -> bool:
        """See `Checkpoints.due`."""
        return self._checkpoints.due(boundary)

    def keep(self, state: RunState, journal: Journal, torchs: torch.Tensor | None = None) -> None:
        """Write a checkpoint.

        Args:
            state, journal: of the run.
            torchs: torch's random state, where that is another while a network is trained.
        """
        record, tensors = state.packed()
        random = RandomStates.now()
        shared = {**random.tensors, **({} if torchs is None else {"torch": torchs})}
        tensors, layouts = laid_out(tensors | {f"random/{name}": tensor for name, tensor in shared.items()})
        whole = {"begun": self._begun, "state": record, "journal": journal.as_dict()}
        self._checkpoints.keep(whole | {"random": dict(random.rest), "layouts": layouts}, tensors)

    def watch(self, state: RunState, journal: Journal) -> Watch:
        """What keeps the run while a network is trained.

        Args:
            state, journal: of the run, as they are when training begins.
        """
        torchs = torch.get_rng_state()

        def keep(progress: Progress) -> None:
            self.keep(replace(state, progress=progress), journal, torchs)

        return Watch(self.due, keep)


@dataclass(frozen=True, eq=False)
class Kept:
    """What a checkpoint holds of a run that goes on.

    Attributes:
        state: of the run.
        journal: what `Journal.as_dict` gave.
        random: states of the process.
    """

    state: RunState
    journal: Record
    random: RandomStates


def unpacked(kept: Checkpoint) -> Kept:
    """What was kept."""
    record = kept.record
    tensors = as_laid_out(kept.tensors, record["layouts"])
    random = {name: tensors[f"random/{name}"] for name in ("torch", "numpy", "python")}
    return Kept(RunState.unpacked(record["state"], tensors), record["journal"], RandomStates(random, record["random"]))
