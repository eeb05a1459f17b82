"""Data of several inputs a sample on the command line: arrays by name, and what a function returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gngraph.data import batches, load_data
from gngraph.errors import DataError
from tests.command_line import Commands

CODE = """
import torch
from tests.growth.test_several_inputs import Described, made, pictures
image, meta, y = pictures()
def network():
    return made(Described), (image[:2], meta[:2])
def alone():
    return made(Described)
def nested():
    return (image, meta), y
def flat():
    return image, meta, y
def named():
    return {"meta": meta.numpy(), "image": image, "label": y}
def inputs_named():
    return {"meta": meta, "image": image}, y
def short():
    return image, meta[:5], y
def objects():
    return image, meta.numpy().astype(object), y
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with data and networks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"several_{tmp_path.name}.py").write_text(CODE)
    return f"several_{tmp_path.name}"


def arrays(count: int = 60) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 9, (count, 5))
    labels[:, 4] = -100
    return {"tgt": draws.integers(0, 9, (count, 5)), "src": draws.integers(0, 9, (count, 7)), "labels": labels}


def test_an_archive_has_inputs_by_name_and_parts_behind_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **arrays())
    whole = load_data(str(tmp_path / "whole.npz"))
    assert (len(whole.train), len(whole.test), whole.loss, whole.outputs) == (48, 12, "next-token", 9)
    x, y = next(batches(whole.train, 4))
    assert {name: tuple(part.shape) for name, part in x.items()} == {"tgt": (4, 5), "src": (4, 7)}
    assert x["src"].dtype == torch.int64 and set(y[:, 4].tolist()) == {-100}
    parts = {f"{name}_{part}": own for part in ("train", "test", "val") for name, own in arrays().items()}
    np.savez(tmp_path / "parts.npz", **parts)
    data = load_data(str(tmp_path / "parts.npz"))
    assert data.validation is not None and [len(data.train), len(data.test), len(data.validation)] == [60, 60, 60]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"src_test": np.zeros((60, 6), int)}, "the test part has not the inputs and targets of the training part"),
        ({"src_train": np.full((60, 7), np.nan)}, "'src' of the train part' holds 'nan'"),
        ({"labels_train": np.full((60, 5), -3)}, "label '-3' of sample 0"),
        ({"src_train": np.zeros((5, 7), int)}, "'src \\(train\\)' has '5' samples"),
    ],
)
def test_what_an_archive_lacks_is_told(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    parts = {f"{name}_{part}": own for part in ("train", "test") for name, own in arrays().items()}
    np.savez(tmp_path / "parts.npz", **(parts | changed))
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "parts.npz"))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("src_test", "the test part has 'tgt', 'labels', but the training part 'tgt', 'src', 'labels': give"),
        ("labels_test", "the test part has 'tgt', 'src', but the training part"),
        ("labels_train", "or several inputs by their names and a target called label, labels, target, targets, y"),
    ],
)
def test_an_array_that_a_part_has_not_is_told_by_its_name(tmp_path: Path, gone: str, message: str) -> None:
    parts = {f"{name}_{part}": own for part in ("train", "test") for name, own in arrays().items()}
    del parts[gone]
    np.savez(tmp_path / "parts.npz", **parts)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "parts.npz"))


def test_all_that_a_function_returns_is_the_same_on_the_command_line(
    mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, found = Commands(capsys), list[str]()
    for name in ("nested", "flat", "named", "inputs_named"):
        done = command("evaluate", f"{mine}:network", "--data", f"{mine}:{name}", "--json")
        assert done.status == 0, done.err
        found.append(done.out.replace(name, ""))
    assert len(set(found)) == 1
    for name, message in (("short", "'1 (train)' has '5' samples"), ("objects", "'1' of the train part is 'object'")):
        assert message in command("evaluate", f"{mine}:network", "--data", f"{mine}:{name}").err
    told = command("evaluate", f"{mine}:alone", "--data", f"{mine}:flat").err
    assert "have the factory give example inputs beside the module" in told


def test_commands_work_on_it_from_training_to_export(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, data = Commands(capsys), ("--data", f"{mine}:named")
    short = ("--rounds", 1, "--epochs", 1, "--final-epochs", 1)
    for words in (
        ("train", f"{mine}:network", *data, "--epochs", 1, "-o", "net.gng"),
        ("grow", "net.gng", *data, "--max-params", 330, *short, "--depth", "keep", "-o", "run"),
        ("score", "run/model.gng", *data, "--unseen", f"{mine}:flat"),
        ("export", "run/model.gng", *data, "--onnx", "net.onnx"),
        ("verify", "net.onnx", "--against", "run/model.gng", *data),
    ):
        done = command(*words)
        assert done.status == 0, done.err
    assert "accuracy" in command("evaluate", "run/model.gng", *data).out
