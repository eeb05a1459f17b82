"""Loggers by name: what they are told, also by a run that goes on, and how they are refused where they are not installed."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import gngraph
from gngraph.errors import OptionError
from gngraph.growth.checkpoints import newest
from gngraph.growth.history import without_seconds
from gngraph.growth.loop import go_on
from tests.growth.test_resume import begun, copied
from tests.problems import dropping, problem

RUN: dict[str, Any] = {"rounds": 1, "depth": "keep", "final_epochs": 2}


def rows(folder: Path) -> list[dict[str, str]]:
    """Rows of the CSV file of a run, without seconds."""
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "train/seconds"} for row in csv.DictReader(file)]


def test_a_file_has_a_row_an_epoch_and_a_round_also_of_a_run_that_went_on(tmp_path: Path) -> None:
    result, copies = copied(lambda out: begun(dropping(), out, log=["csv"], **RUN), tmp_path)
    whole = rows(tmp_path / "whole")
    assert [(row["epoch"], row["round"]) for row in whole] == [
        ("1", "1"),
        ("1", "1"),
        ("2", "2"),
        ("3", "2"),
        ("3", "2"),
    ]
    first, last = result.history
    assert float(whole[0]["train/loss"]) == first["epochs"][0]["loss"] and whole[0]["loss"] == ""
    assert float(whole[1]["loss"]) == first["loss"] and float(whole[1]["predicted"]) == first["predicted"]
    assert int(whole[-1]["params"]) == last["params"] and whole[-1]["train/loss"] == ""
    plain = begun(dropping(), tmp_path / "unlogged", **RUN)
    assert without_seconds(plain.history) == without_seconds(result.history)
    for folder in (copies[2], copies[-2]):
        (folder / "log.csv").write_text("damaged")
        kept = newest(folder)
        assert kept is not None
        go_on(kept, problem(), folder)
        assert rows(folder) == whole


class Service:
    """Stands for a package that a run is logged with, and draws from the random streams as some do."""

    def __init__(self) -> None:
        self.given, self.told, self.finished = dict[str, Any](), list[dict[str, float]](), 0

    def init(self, **given: Any) -> Service:
        random.random()
        self.given = given
        return self

    def log(self, values: dict[str, float]) -> None:
        random.random()
        self.told.append(values)

    def finish(self) -> None:
        self.finished += 1

    def module(self, name: str) -> ModuleType:
        """It, as a package."""
        found = ModuleType(name)
        found.__dict__.update(init=self.init, log=self.log, finish=self.finish)
        return found


class Writer:
    """Stands for torch's writer of TensorBoard's event files."""

    told: ClassVar[list[tuple[str, float, int]]] = []

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.told.append(("closed", 0.0, 0))


def test_packages_are_told_the_numbers_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: Service() for name in ("wandb", "trackio")}
    for name, service in services.items():
        monkeypatch.setitem(sys.modules, name, service.module(name))
    events = ModuleType("torch.utils.tensorboard")
    events.__dict__["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, events.__name__, events)
    before = random.getstate()
    begun(dropping(), tmp_path / "run", log=["tensorboard", "wandb", "trackio"], **RUN)
    assert random.getstate() == before
    label = (tmp_path / "run" / "log-label.txt").read_text("utf-8")
    assert services["wandb"].given["id"] == label and services["wandb"].given["name"] == "run"
    assert services["trackio"].given["name"] == f"run-{label}"
    for service in services.values():
        assert service.given["project"] == "gngraph" and service.given["resume"] == "allow" and service.finished == 1
        assert service.given["config"]["grow"]["final_epochs"] == 2
        assert [told["epoch"] for told in service.told] == [1, 1, 2, 3, 3]
        assert service.told[-1]["accuracy"] > 0 and "train/loss" in service.told[-2]
    assert [step for name, _, step in Writer.told if name == "train/loss"] == [1, 2, 3]
    assert Writer.told[-1][0] == "closed"


def test_what_cannot_be_logged_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(OptionError, match="the logger 'trackio' is not installed: pip install trackio"):
        begun(dropping(), tmp_path / "run", log=["csv", "trackio"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(OptionError, match="beside its folder: name one"):
        gngraph.grow(dropping(), problem(), max_params=3000, log=["csv"])
    with pytest.raises(OptionError, match="option 'log' is of type 'list', but must be a list, each csv or"):
        gngraph.grow(dropping(), problem(), max_params=3000, log=["cvs"])
