"""Loggers by name, which are told the numbers of a run: a CSV file, TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import csv
import importlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from gngraph.errors import OptionError
from gngraph.growth.history import Record
from gngraph.growth.randomness import RandomStates, drawing_from
from gngraph.training.progress import EpochRecord
from gngraph.writing import replacing

OF_EPOCH = ("loss", "accuracy", "lr", "seconds", "judged")
"""Numbers of an epoch of training, "train/loss" and so on."""

OF_ROUND = ("loss", "accuracy", "iou", "params", "flops", "milliseconds", "predicted", "actual")
"""Numbers of a round as it ends, of the network that it gave; "predicted" and "actual" are changes of the loss by its rewrite."""

NAMES = ("epoch", "round", *(f"train/{name}" for name in OF_EPOCH), *OF_ROUND)
"""All that is told, and the columns of the CSV file."""

LOG_FILE, TENSORBOARD_FOLDER, LABEL_FILE = "log.csv", "tensorboard", "log-label.txt"
"""In the folder of a run; the last holds the label that a service knows it by."""

PROJECT = "gngraph"
"""What services list runs under."""


class Logger(Protocol):
    """Keeps numbers.

    Attributes:
        keeps: whether it keeps what it was told before a run was interrupted, or is told again.
    """

    keeps: ClassVar[bool]

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers by their names, after an epoch of the run."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class CsvLogger:
    """A row for every epoch, and one for every round; written at once.

    Args:
        folder: of the run.
        config: unused here; the folder has it in a file.
    """

    keeps: ClassVar[bool] = False

    def __init__(self, folder: Path, config: Record) -> None:
        self._file = open(folder / LOG_FILE, "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._rows = csv.DictWriter(self._file, NAMES)
        self._rows.writeheader()

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`."""
        self._rows.writerow({"epoch": epoch, **values})
        self._file.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._file.close()


class TensorBoardLogger:
    """Event files in the folder of the run.

    Args:
        folder: of the run.
        config: unused here.
    """

    keeps: ClassVar[bool] = False

    def __init__(self, folder: Path, config: Record) -> None:
        shutil.rmtree(folder / TENSORBOARD_FOLDER, ignore_errors=True)
        module: Any = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / TENSORBOARD_FOLDER))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases, in its own mode and account, as the environment has them.

    Args:
        folder: of the run.
        config: what it was given.
    """

    keeps: ClassVar[bool] = True

    def __init__(self, folder: Path, config: Record) -> None:
        module: Any = importlib.import_module("wandb")
        own = {"name": folder.name, "id": _label(folder), "dir": str(folder), "config": config}
        self._run = module.init(project=PROJECT, resume="allow", **own)

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`."""
        self._run.log({"epoch": epoch, **values})

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


class TrackioLogger:
    """A run of Trackio, which keeps it on this machine.

    Args:
        folder: of the run.
        config: what it was given.
    """

    keeps: ClassVar[bool] = True

    def __init__(self, folder: Path, config: Record) -> None:
        self._module: Any = importlib.import_module("trackio")
        self._module.init(project=PROJECT, name=f"{folder.name}-{_label(folder)}", config=config, resume="allow")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`."""
        self._module.log({"epoch": epoch, **values})

    def close(self) -> None:
        """See `Logger`."""
        self._module.finish()


LOGGERS: Mapping[str, tuple[Callable[[Path, Record], Logger], str]] = {
    "csv": (CsvLogger, "csv"),
    "tensorboard": (TensorBoardLogger, "torch.utils.tensorboard"),
    "wandb": (WandbLogger, "wandb"),
    "trackio": (TrackioLogger, "trackio"),
}
"""Loggers by name, and the modules that they need."""


def require_loggers(names: Sequence[str], folder: Path | None) -> None:
    """Refuse loggers that cannot be used, before anything is trained or written.

    Args:
        names: of `LOGGERS`.
        folder: of the run, if it has one.

    Raises:
        OptionError: one is not installed, or there is no folder.
    """
    if names and folder is None:
        raise OptionError(f"a run is logged ({', '.join(names)}) beside its folder: name one (out)")
    for name in names:
        try:
            importlib.import_module(LOGGERS[name][1])
        except ImportError as error:
            raise OptionError(f"the logger '{name}' is not installed: pip install {name}") from error


class Logged:
    """An observer that tells loggers.

    Args:
        loggers: that are told.
        epoch: of the run, that is the last so far.
    """

    def __init__(self, loggers: Sequence[Logger], epoch: int = 0) -> None:
        self._loggers, self._epoch = loggers, epoch

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        """Tell its numbers."""
        self._epoch = epoch.epoch
        found = {f"train/{name}": getattr(epoch, name) for name in OF_EPOCH}
        self._tell({"round": number, **found})

    def round_finished(self, record: Record) -> None:
        """Tell the numbers of the round."""
        self._tell({"round": record["round"], **{name: record.get(name) for name in OF_ROUND}})

    def _tell(self, values: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        with drawing_from(RandomStates.now()):  # a run is the same, whoever looks on
            for logger in self._loggers:
                logger.log(known, self._epoch)


@contextmanager
def logged(
    names: Sequence[str], folder: Path | None, config: Record, before: Sequence[Record] = ()
) -> Iterator[list[Logged]]:
    """Observers that tell loggers of a run, which are closed at the end.

    Args:
        names: of `LOGGERS`; none: there is no observer.
        folder: of the run; None: there is none.
        config: what it was given.
        before: records of the run, which goes on after them; the last may be of a round that has not ended.
    """
    with ExitStack() as open_ones:
        with drawing_from(RandomStates.now()):
            found = [] if folder is None else [LOGGERS[name][0](folder, config) for name in names]
        for logger in found:
            open_ones.callback(logger.close)
        _tell_again(Logged([logger for logger in found if not logger.keeps]), before)
        done = sum(len(record.get("epochs", ())) for record in before)
        yield [Logged(found, done)] if found else []


def _tell_again(told: Logged, before: Iterable[Record]) -> None:
    for record in before:
        for epoch in record.get("epochs", ()):
            told.epoch_finished(record["round"], EpochRecord(**epoch))
        if "seconds" in record:  # it has ended
            told.round_finished(record)


def _label(folder: Path) -> str:
    """What a service knows a run by: made once, and the same when the run goes on."""
    path = folder / LABEL_FILE
    if not path.is_file():
        with replacing(path) as (written,):
            written.write_text(uuid.uuid4().hex[:12], "utf-8")
    return path.read_text("utf-8")
