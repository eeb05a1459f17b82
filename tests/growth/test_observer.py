"""Whoever looks on at a run has the methods that it wants, and no others."""

from __future__ import annotations

import pytest

from gngraph.api import grow
from gngraph.errors import OptionError
from gngraph.growth.history import Record
from gngraph.growth.observer import observers_of
from gngraph.options import GrowOptions, TrainOptions
from gngraph.training.progress import EpochRecord
from tests.problems import problem, seed_graph


class Losses:
    def __init__(self) -> None:
        self.seen: list[float] = []

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        self.seen.append(epoch.loss)


class Rounds:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def round_finished(self, record: Record) -> None:
        self.seen.append(record["kind"])


def test_each_is_told_of_what_it_has_a_method_for() -> None:
    losses, rounds = Losses(), Rounds()
    options = GrowOptions(max_params=3000, rounds=1, epochs=1, final_epochs=2, train=TrainOptions(batch_size=32))
    grow(seed_graph(), problem(), options, observer=[losses, rounds])
    assert len(losses.seen) == 3 and rounds.seen == ["round", "final"]


@pytest.mark.parametrize(
    ("given", "text"), [(3, "a 'int' is no observer"), (Losses, "the class 'Losses' is no observer"), ([3], "'int'")]
)
def test_what_has_none_of_the_methods_is_refused(given: object, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        observers_of(given)
