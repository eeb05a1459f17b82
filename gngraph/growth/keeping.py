"""What a checkpoint of a run holds: how the run began, its state, its account, and the random states of the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gngraph.errors import GnGraphError
from gngraph.files.archive import load
from gngraph.files.runs import SEED_FILE
from gngraph.growth.checkpoints import Checkpoint, Checkpoints
from gngraph.growth.history import Record, epoch_entries
from gngraph.growth.identity import identity_of, require_same
from gngraph.growth.jobs import JOBS, Task
from gngraph.growth.journal import Journal
from gngraph.growth.randomness import RandomStates
from gngraph.growth.state import RunState, as_laid_out, laid_out
from gngraph.ir import Graph, parse
from gngraph.ir.fingerprint import fingerprint
from gngraph.ir.text import format_graph
from gngraph.options import Options
from gngraph.ranks import here
from gngraph.running.problem import Problem
from gngraph.training.progress import Progress, Watch

BEGINNING = ("job", "network", "source", "options")
"""Of how a run began, what whoever begins it says."""


def begun_as(options: Options, graph: Graph, problem: Problem, source: Record | None) -> Record:
    """How a run began, as JSON.

    Args:
        options: of its job.
        graph: the seed network.
        problem: of the run.
        source: of its data, see `gngraph.growth.loop.grow_by`.
    """
    own = {"job": options.title, "options": options.as_dict(), "network": fingerprint(graph)}
    ranks = here()
    return own | {"identity": ranks.by_first(lambda: identity_of(problem, ranks.size)), "source": source}


def require_same_beginning(begun: Record, now: Record, folder: Path) -> None:
    """Refuse to go on with a run in place of another one.

    Args:
        begun: what `begun_as` gave when it began.
        now: what it gives of the run that is asked for.
        folder: of the run.

    Raises:
        GnGraphError: with the first difference of job, network, data or options.
    """
    was, asked = (
        {name: value for part in BEGINNING for name, value in _named(part, record[part])} for record in (begun, now)
    )
    for name in {**asked, **was}:
        if was.get(name) != asked.get(name):
            raise GnGraphError(
                f"the run in '{folder}' is another than the one that is asked for: {name} is {asked.get(name)}, but was "
                f"{was.get(name)}; go on with it as it began, or name another folder"
            )


def _named(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """What a part of a record holds, each by its innermost name, as JSON."""
    if isinstance(value, dict):
        for own, inner in value.items():
            yield from _named(own, inner)
    else:
        yield name, json.dumps(value)


def begun_again(begun: Record, problem: Problem, folder: Path) -> tuple[Task, Graph]:
    """Task and seed network of a run that goes on.

    Args:
        begun: what `begun_as` gave.
        problem: that it is to go on with.
        folder: of the run.

    Raises:
        GnGraphError: something that the run depends on is another.
    """
    ranks = here()
    ranks.by_first(lambda: require_same(begun["identity"], problem, ranks.size, folder))
    graph = _loaded(folder / SEED_FILE)
    if fingerprint(graph) != begun["network"]:
        raise GnGraphError(f"'{folder / SEED_FILE}' is not the network that the run in '{folder}' began with")
    job = JOBS[begun["job"]]
    return job.task(job.options.of(begun["options"]), graph), graph


def _loaded(path: Path) -> Graph:
    """The network in a file that the first process can read."""
    ranks = here()
    graph = ranks.only_first(lambda: load(path))
    own = None if graph is None else (format_graph(graph), {name: p.data for name, p in graph.params.items()})
    text, tensors = ranks.agreed(own) or ("", {})
    return parse(text).with_params(tensors) if graph is None else graph


class Keeper:
    """Keeps a run.

    Args:
        checkpoints: of the run; None: another process writes them.
        begun: what `begun_as` gave.
    """

    def __init__(self, checkpoints: Checkpoints | None, begun: Record) -> None:
        self._checkpoints = checkpoints
        self._begun = begun

    def due(self, boundary: bool) -> bool:
        """See `Checkpoints.due`: the process that writes them decides."""
        own = self._checkpoints is not None and self._checkpoints.due(boundary)
        return bool(here().copied({"due": torch.tensor(own)})["due"])

    def keep(self, state: RunState, journal: Journal, torchs: torch.Tensor | None = None) -> None:
        """Write a checkpoint.

        Args:
            state, journal: of the run.
            torchs: torch's random state, where that is another while a network is trained.
        """
        ranks, random = here(), RandomStates.now()
        own = {**random.tensors, **({} if torchs is None else {"torch": torchs})}
        states = {f"random/{name}": ranks.rows(tensor.unsqueeze(0)) for name, tensor in own.items()}
        rest = ranks.gathered(dict(random.rest))
        if self._checkpoints is None:
            return
        record, tensors = state.packed()
        tensors, layouts = laid_out(tensors | states)
        whole = {"begun": self._begun, "state": record, "journal": journal.as_dict()}
        self._checkpoints.keep(whole | {"random": rest, "layouts": layouts}, tensors)

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
        random: states of this process.
    """

    state: RunState
    journal: Record
    random: RandomStates

    @property
    def records(self) -> list[Record]:
        """Those of the rounds, the last of one that has not ended, with the epochs that are trained of it."""
        progress = self.state.progress
        begun = [] if progress is None else epoch_entries(progress.epochs)
        own = {"round": self.state.number, "epochs": [*self.state.record.get("epochs", ()), *begun]}
        return [*self.journal["history"], own]


def unpacked(kept: Checkpoint) -> Kept:
    """What was kept."""
    record = kept.record
    tensors = as_laid_out(kept.tensors, record["layouts"])
    rank = here().rank
    random = {name: tensors[f"random/{name}"][rank].clone() for name in ("torch", "numpy", "python")}
    states = RandomStates(random, record["random"][rank])
    return Kept(RunState.unpacked(record["state"], tensors), record["journal"], states)
