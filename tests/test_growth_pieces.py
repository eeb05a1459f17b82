"""A table that is made in pieces is the table that is made at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gngraph.analysis.cost import Budget
from gngraph.data import load_data
from tests.test_bench_growth import run_of
from tools import bench_growth
from tools.growth_pieces import ENDLESS, Piece, PieceOver


@dataclass(frozen=True)
class Boundaries(Piece):
    """It is over at so many ends of epochs and stages."""

    left: list[int] = field(default_factory=lambda: [2])

    @property
    def over(self) -> bool:
        self.left[0] -= 1
        return self.left[0] < 0


def line_of(job: str, method: str, folder: Path, piece: Piece) -> dict[str, Any]:
    settings = replace(run_of(job, folder, Budget(2000)).settings, epochs=3, tuning=3, rounds=1)
    data = bench_growth.shrunken(load_data("digits"), 4, 200)
    return bench_growth.Bench(settings, data, "cpu", folder, piece).run(bench_growth.Cell(method, 0, Budget(2000)))


@pytest.mark.parametrize(
    ("job", "method"), [("search", "uniform"), ("search", "gngraph"), ("shrink", "gn-prune"), ("shrink", "gngraph")]
)
def test_a_run_goes_on_where_its_piece_ended(job: str, method: str, tmp_path: Path) -> None:
    whole = line_of(job, method, tmp_path / "whole", ENDLESS)
    pieces = 0
    while pieces < 30:
        try:
            found = line_of(job, method, tmp_path / "pieces", Boundaries())
            break
        except PieceOver:
            pieces += 1
            assert list((tmp_path / "pieces" / "unfinished").iterdir()) or pieces == 1
    assert pieces >= 2
    clocks = ("seconds", "search_seconds")
    assert {k: v for k, v in found.items() if k not in clocks} == {k: v for k, v in whole.items() if k not in clocks}
    assert found["seconds"] > 0 and not list((tmp_path / "pieces" / "unfinished").iterdir())


def test_what_is_left_is_told_and_made_another_time(tmp_path: Path) -> None:
    words = "search --data digits --train 120 --network mlp --epochs 2 --samples 40 --device cpu --budget 4k --rounds 1"
    arguments = [*words.split(), "--methods", "uniform,pyramid", "--out", str(tmp_path)]
    first = CliRunner().invoke(bench_growth.main, [*arguments, "--minutes", "0"])
    assert first.exit_code == 0 and "2 of 2 runs are left: give the command again" in first.output
    second = CliRunner().invoke(bench_growth.main, [*arguments, "--minutes", "5"])
    assert second.exit_code == 0 and "are left" not in second.output
    assert len([json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]) == 2
