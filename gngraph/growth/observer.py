"""What a run tells while it goes on; growth itself prints nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gngraph.growth.history import Record
from gngraph.training.progress import EpochRecord


@runtime_checkable
class Observer(Protocol):
    """Receives the events of a run, in order. Rounds count from 1; the final training is round `rounds + 1`."""

    def network_given(self, given: Record) -> None:
        """What the run decided before anything was trained, by what the network knows as it is given.

        Args:
            given: "trained", the judge split's "loss" and the same with targets "exchanged" among samples, and what follows
                from that, "perturb" and "depth". It stands in the first round's record too.
        """
        ...

    def stage_started(self, number: int, stage: str) -> None:
        """Stage `stage` of round `number` begins; the stages are those of `gngraph.growth.journal.STAGES`."""
        ...

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """It ended after `seconds`.

        Args:
            number: of the round, from 1; one more for the final training.
            stage: a name of `STAGES`.
            seconds: of wall time.
        """
        ...

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        """An epoch of training ended."""
        ...

    def round_finished(self, record: Record) -> None:
        """A round ended, and its record is written."""
        ...


class Unobserved:
    """An observer that ignores everything; a base for those that want a few events."""

    def network_given(self, given: Record) -> None:
        """Ignore it."""

    def stage_started(self, number: int, stage: str) -> None:
        """Ignore it."""

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """Ignore it."""

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        """Ignore it."""

    def round_finished(self, record: Record) -> None:
        """Ignore it."""
