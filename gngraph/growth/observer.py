"""What a run tells while it goes on; growth itself prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gngraph.errors import OptionError
from gngraph.growth.history import Record
from gngraph.training.progress import EpochRecord


class Observer(Protocol):
    """Receives the events of a run, in order; an object of a user's own need not have all methods.

    Rounds count from 1; the final training is round `rounds + 1`.
    """

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


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))
"""Methods of an observer."""


class Observers:
    """Objects of a user's own, each told of the events that it has a method for.

    Args:
        told: at least one method of `Observer` each.
    """

    def __init__(self, told: Sequence[object]) -> None:
        self._told = tuple(told)

    def network_given(self, given: Record) -> None:
        """See `Observer`."""
        self._tell("network_given", given)

    def stage_started(self, number: int, stage: str) -> None:
        """See `Observer`."""
        self._tell("stage_started", number, stage)

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """See `Observer`."""
        self._tell("stage_finished", number, stage, seconds)

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        """See `Observer`."""
        self._tell("epoch_finished", number, epoch)

    def round_finished(self, record: Record) -> None:
        """See `Observer`."""
        self._tell("round_finished", record)

    def _tell(self, event: str, *what: Any) -> None:
        for one in self._told:
            method = getattr(one, event, None)
            if method is not None:
                method(*what)


def observers_of(given: object) -> Observer:
    """One observer of what a user gives: None, an object with some of the methods of `Observer`, or several such.

    Raises:
        OptionError: one has none of the methods.

    >>> class Losses:
    ...     def epoch_finished(self, number, epoch):
    ...         print(number, epoch)
    >>> observers_of([Losses(), Losses()]).epoch_finished(1, "an epoch")
    1 an epoch
    1 an epoch
    """
    several = given if isinstance(given, list | tuple) else [] if given is None else [given]
    for one in several:
        if isinstance(one, type) or not any(callable(getattr(one, event, None)) for event in EVENTS):
            what = f"the class '{one.__name__}'" if isinstance(one, type) else f"a '{type(one).__name__}'"
            raise OptionError(f"{what} is no observer: give an object with any of the methods {', '.join(EVENTS)}")
    return Observers(several)
