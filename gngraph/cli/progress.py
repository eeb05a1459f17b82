"""Progress of training and growth: bars on a terminal, one line an epoch or round everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gngraph.cli.speaking import for_machines, quiet
from gngraph.cli.tables import console
from gngraph.report.words import comparison_told, describe_given, describe_round, percent

if TYPE_CHECKING:
    from gngraph.growth.history import Record
    from gngraph.options import RunOptions
    from gngraph.training.progress import EpochRecord


def describe_epoch(epoch: EpochRecord) -> str:
    """An epoch in one line."""
    accuracy = percent(", training accuracy ", epoch.accuracy)
    judged = "" if epoch.judged is None else f", loss on withheld samples {epoch.judged:.4f}"
    return f"epoch {epoch.epoch}: training loss {epoch.loss:.4f}{accuracy}{judged}, {epoch.seconds:.1f} s"


class _Bars:
    """A context with a progress display, which shows nothing where the output is no terminal."""

    def __init__(self) -> None:
        out = console(stderr=for_machines(), work=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if not quiet():
            self.progress.console.print(text, markup=False, soft_wrap=True)


class EpochLines(_Bars):
    """A bar over the epochs of one training, and a line for each."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._task = self.progress.add_task("training", total=max(1, epochs))

    def finished(self, epoch: EpochRecord) -> None:
        """An epoch ended."""
        self.say(describe_epoch(epoch))
        self.progress.advance(self._task)


class RunProgress(_Bars):
    """Observer of a growth run: a bar over all epochs, one over the stages of the round, and a line a round.

    Args:
        options: of the run, for the number of its rounds and epochs.
        done: epochs that were trained before.
    """

    def __init__(self, options: RunOptions, done: int = 0) -> None:
        super().__init__()
        self._rounds = options.rounds
        self._told: set[str] = set()
        self._whole = self.progress.add_task("growing", total=max(1, options.whole), completed=done)
        self._stage = self.progress.add_task("starting", total=None)

    def resuming(self, number: int, done: int) -> None:
        """Say where the run goes on.

        Args:
            number: of the round.
            done: epochs of the run that are trained.
        """
        where = {self._rounds + 1: "in the final training", self._rounds + 2: "with the exports"}
        self.say(f"going on {where.get(number, f'in round {number} of {self._rounds}')}, after epoch {done}")

    def network_given(self, given: Record) -> None:
        """Say what was decided, and why."""
        self.say(describe_given(given))

    def stage_started(self, number: int, stage: str) -> None:
        """Name the stage."""
        title = f"round {number}/{self._rounds}" if number <= self._rounds else "final training"
        self.progress.update(self._stage, description=f"{title}: {stage}")

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """Nothing to show: the round's line has the seconds."""

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        """Move the bar; in a log, where no bar shows, print a line."""
        self.progress.advance(self._whole)
        if self.progress.disable:
            self.say(f"  {describe_epoch(epoch)}")

    def round_finished(self, record: Record) -> None:
        """Print the round's line, and below it what there is to know that was not said before."""
        self.say(describe_round(record))
        for note in record.get("notes", ()):
            if note not in self._told:
                self._told.add(note)
                self.say(f"note: {note}")

    def compared(self, beside: Sequence[Record], last: Record) -> None:
        """Say what was trained beside the run came to.

        Args:
            beside: a record each.
            last: of the run.
        """
        for line in comparison_told(beside, last):
            self.say(line)

    def exporting(self) -> None:
        """The run is over, its files are being written."""
        self.progress.update(self._stage, description="exporting (source, ONNX, report)")
        if self.progress.disable:
            self.say("exporting (source, ONNX, report)")
