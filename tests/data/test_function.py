"""Data that a function of the user's own gives, named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gngraph.data import load_data
from gngraph.errors import DataError
from tests.command_line import Commands

CODE = """
import sys
import numpy, torch
import gngraph.data
draws = numpy.random.default_rng(0)
x = draws.normal(size=(90, 4)).astype("float32")
def pair():
    return torch.from_numpy(x), x[:, :3].argmax(1)
def parts():
    return {"x_train": x[:60], "y_train": x[:60, 0], "x_test": x[60:], "y_test": x[60:, 0]}
def four():
    return x[:60], x[:60, :3].argmax(1), x[60:], x[60:, :3].argmax(1)
def data():
    return gngraph.data.from_arrays("own", *four())
def pairs():
    return (x[:60], x[:60, :3].argmax(1)), (x[60:], x[60:, :3].argmax(1))
def ragged():
    return [numpy.zeros((2, 3)), numpy.zeros((2, 4))], [0, 1]
def ending():
    sys.exit(2)
def number():
    return 3
def lacking():
    return {"x_train": x, "x_test": x}
def words():
    return [["a"]] * 3, [object()] * 3
"""


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owndata.py").write_text(CODE)


@pytest.mark.parametrize(
    ("name", "samples", "outputs"),
    [("pair", 72, 3), ("parts", 60, 1), ("four", 60, 3), ("pairs", 60, 3), ("data", 60, 3)],
)
def test_a_function_gives_what_an_archive_holds(name: str, samples: int, outputs: int) -> None:
    found = load_data(f"owndata:{name}")
    assert (len(found.train), found.outputs, found.input_shape) == (samples, outputs, (4,))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ending", "'owndata:ending' could not be called: SystemExit: 2; it must name a function"),
        ("missing", "'owndata:missing' could not be called: AttributeError: "),
        ("number", r"'owndata:number' returned a 'int', but it must return a gngraph\.data\.Data, \(x, y\)"),
        ("lacking", "what 'owndata:lacking' returned lacks 'y_train', 'y_test': it holds"),
        ("ragged", "'x_train' of what 'owndata:ragged' returned is no array: "),
        ("words", "'y_train' of what 'owndata:words' returned holds Python objects"),
    ],
)
def test_what_it_gives_otherwise_is_refused_in_a_sentence(name: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        load_data(f"owndata:{name}")


def test_the_command_line_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = Commands(capsys)
    command.ok("seed", "mlp", "--width", "0.03", "--classes", "3", "--input-shape", "4", "-o", "seed.gng")
    out = command.ok("train", "seed.gng", "--data", "owndata:pair", "--epochs", "1", "-o", "trained.gng")
    assert "18 of 90 samples are held out" in out
