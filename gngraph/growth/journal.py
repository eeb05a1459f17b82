"""`Journal`: the account of a run. Its stages are timed, its records kept in a folder where there is one, and told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.environment import Environment
from gngraph.growth.channel_records import add_predictions, selection_record, spaces_record
from gngraph.growth.history import Lineage, Record
from gngraph.growth.observer import observers_of
from gngraph.growth.run_folder import RunFolder
from gngraph.ir import Graph
from gngraph.ranks import here
from gngraph.scoring.gauss_newton import Scores
from gngraph.scoring.selection import Selection
from gngraph.search.depth import DEPTH
from gngraph.search.ending import ENDING
from gngraph.search.lookahead import LOOKAHEAD
from gngraph.search.structure import STRUCTURE
from gngraph.training.progress import EpochRecord

STAGES = (
    "train",
    "evaluate",
    DEPTH,
    STRUCTURE,
    "analyse",
    LOOKAHEAD,
    "select",
    "rewrite",
    "measure",
    "batchnorm",
    ENDING,
)
"""Stages of a round, in the order in which they first come. "evaluate" (the held-out data, and whether anything was learned at all)
follows both the training and the rewrite, "batchnorm" the rewrite, "rewrite" and "measure" come again when the learned morphisms
are refused, "depth", "structure" and "lookahead" come in the first round alone, and "ending" before the final training, where they
are asked for."""


COMPARE = "compare"
"""Stage after the last round, where something is trained to compare with; it is told, and in no record."""


class Journal:
    """What a run has done so far.

    Attributes:
        history: the records of the rounds that ended.
        channels: what is known of every channel: of the seed, of each round at its rewrite, and of the network at the end.
        lineage: where every channel comes from.

    Args:
        seed: the network that the run starts from.
        lineage: of the seed.
        observer: told of everything; None: nobody is. Of several processes the first one's is.
        folder: of the run; None: nothing is written.
        kept: what `as_dict` gave of a run that goes on.
    """

    def __init__(
        self,
        seed: Graph,
        lineage: Lineage,
        observer: object,
        folder: RunFolder | None,
        kept: Record | None = None,
    ) -> None:
        if kept is None:
            begun = {"round": 0, "spaces": spaces_record(seed, ChannelSpaces.of(seed), None)}
            ranks, threads = here().size, torch.get_num_threads()
            environment = {"ranks": ranks, "threads": threads, **Environment.read().arithmetic}
            kept = {"history": [], "channels": [begun], "given": None, "number": 0, "seconds": {}}
            kept["environment"] = environment
        self.history: list[Record] = kept["history"]
        self.channels: list[Record] = kept["channels"]
        self.lineage = lineage
        self._observer = observers_of(observer if here().first else None)
        self._given: Record | None = kept["given"]
        self._number: int = kept["number"]
        self._seconds: dict[str, float] = kept["seconds"]
        self._environment: Record = kept["environment"]
        self._folder = folder
        if folder is not None:
            folder.write_channels(self.channels)

    def as_dict(self) -> Record:
        """The account as JSON."""
        own: Record = {"history": self.history, "channels": self.channels}
        own |= {"given": self._given, "environment": self._environment}
        return own | {"number": self._number, "seconds": self._seconds}

    def given(self, given: Record) -> None:
        """What was decided before the first round; its record will have it."""
        self._given = given
        self._observer.network_given(given)

    def begin(self, number: int) -> None:
        """Round `number` begins."""
        self._number, self._seconds = number, {}

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """A stage of the round, one of `STAGES`, or `COMPARE`, for as long as the block runs."""
        self._observer.stage_started(self._number, stage)
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        self._observer.stage_finished(self._number, stage, seconds)

    def epoch(self, epoch: EpochRecord) -> None:
        """An epoch of training ended."""
        self._observer.epoch_finished(self._number, epoch)

    def decided(self, graph: Graph, scores: Scores, selection: Selection) -> None:
        """Keep what was predicted of the channels of a network before it is rewritten.

        Args:
            graph: before the rewrite.
            scores: what was found of its candidates.
            selection: those that were chosen.
        """
        record = self._channels_of(graph)
        add_predictions(record["spaces"], scores.candidates)
        self.channels.append(record | {"selection": selection_record(scores, selection)})

    def _channels_of(self, graph: Graph) -> Record:
        spaces = ChannelSpaces.of(graph)
        return {"round": self._number, "spaces": spaces_record(graph, spaces, self.lineage.recent(spaces))}

    def close(self, record: Record, graph: Graph) -> None:
        """The round ended, with `graph`; its seconds are added to the record."""
        record["seconds"] = {stage: round(self._seconds.get(stage, 0.0), 4) for stage in STAGES}
        if not self.history:
            record["environment"] = self._environment
            record |= {} if self._given is None else {"given": self._given}
        self.history.append(record)
        if self.channels[-1]["round"] != self._number:  # nothing was decided in it: it is the final training
            self.channels.append(self._channels_of(graph))
        if self._folder is not None:
            self._folder.append(self.channels, graph, self.history, self.lineage.sources())
        self._observer.round_finished(record)
