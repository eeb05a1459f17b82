"""The benchmark of worths fits what it should, and goes on where it was."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gngraph.search.widths import POWER
from tools.bench_worth import fitted, main, relative


def test_worths_are_found_again() -> None:
    lines: list[dict[str, object]] = [
        {"widths": {"a": a, "b": b}, "accuracy": 0.9 - 2.0 * a**-POWER - 0.5 * b**-POWER}
        for a, b in itertools.product((4, 6, 9), (3, 5, 8))
    ]
    worths, rest = fitted(lines)
    assert worths == pytest.approx({"a": 2.0, "b": 0.5}) and rest < 1e-9
    assert relative(worths) == pytest.approx({"a": 1.6, "b": 0.4})


def test_shapes_are_trained_once(tmp_path: Path) -> None:
    words = "--data digits --train 200 --network mlp --flops 8k --epochs 1 --samples 60 --measured 1 --device cpu"
    arguments = [*words.split(), "--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    first = CliRunner().invoke(main, [*arguments, "--shapes", "3"])
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(main, [*arguments, "--shapes", "4"])
    assert second.exit_code == 0 and "shape 3:" in second.output and "shape 2:" not in second.output
    assert "correlation with training" in second.output
    assert len((tmp_path / "shapes.jsonl").read_text().splitlines()) == 4
