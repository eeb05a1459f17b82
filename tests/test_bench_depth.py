"""The benchmark of depths says what trials would choose, and goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tools.bench_depth import chosen, counts, main, missed


def line(seed: int, removed: int, loss: float, accuracy: float) -> dict[str, object]:
    return {"seed": seed, "removed": removed, "flops": 1, "trials": {"1": loss}, "accuracy": accuracy}


def test_a_choice_is_the_deepest_of_those_about_as_good() -> None:
    lines = [
        line(0, 0, 2.0, 0.5),
        line(0, 2, 1.03, 0.7),
        line(0, 4, 1.0, 0.6),
        line(1, 0, 1.0, 0.4),
        line(1, 2, 1.2, 0.5),
    ]
    assert [chosen(lines[:3], "1", margin)["removed"] for margin in (0.0, 0.05, 1.5)] == [4, 2, 0]
    removed, below = missed(lines, "1", 0.0)
    assert removed == [4, 0] and below == pytest.approx([0.1, 0.1])


def test_no_more_depths_are_trained_than_growth_tells_apart() -> None:
    assert [len(counts(most)) for most in (0, 1, 5, 6, 7, 33)] == [1, 2, 6, 7, 5, 7]
    assert counts(0) == [0]


def test_depths_are_trained_once(tmp_path: Path) -> None:
    words = "--data digits --train 200 --network mlp --budget 4k --epochs 1 --samples 60 --lengths 1,2 --device cpu"
    arguments = [*words.split(), "--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert "seed 0, 1 removed" in first.output and "points below the best depth" in first.output
    again = CliRunner().invoke(main, [*arguments, "--seeds", "2"])
    assert again.exit_code == 0 and "seed 0," not in again.output and "seed 1, 1 removed" in again.output
    other = CliRunner().invoke(main, [*arguments, "--lr", "0.01"])
    assert other.exit_code == 0 and "seed 0, 1 removed" in other.output  # lines of another table are none of this


def test_a_resolution_may_lose_its_layers_where_that_is_asked_for(tmp_path: Path) -> None:
    words = "--data digits --train 64 --network vgg11 --budget 20k --start 1 --epochs 1 --samples 32 --lengths 1 --device cpu"
    arguments = [*words.split(), "--threads", str(torch.get_num_threads()), "--out", str(tmp_path), "--order"]
    for order, removed in (("growth", 3), ("missed", 7)):  # of 8 convolutions, at 5 resolutions
        result = CliRunner().invoke(main, [*arguments, order])
        assert result.exit_code == 0, result.output
        assert f"seed 0, {removed} removed" in result.output
