"""The benchmark of predictions in transformers tells heads, stream and hidden channels apart."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from click.testing import CliRunner

from tools.bench_streams import main


def test_every_part_of_a_vit_is_measured(tmp_path: Path) -> None:
    words = "--network vit --epochs 1,1 --kinds prune --looks 4 --candidates 2 --samples 60,60,60 --unseen 40"
    threads, out = ["--threads", str(torch.get_num_threads())], tmp_path / "points.csv"
    result = CliRunner().invoke(main, [*words.split(), *threads, "--out", str(out)])
    assert result.exit_code == 0, result.output
    with out.open() as file:
        points = list(csv.DictReader(file))
    assert [point["kind"] for point in points] == [
        f"prune, {part}" for part in ("heads", "hidden", "stream") for _ in range(2)
    ]
    assert {point["site"] for point in points if point["kind"] == "prune, stream"} == {"patches"}
    assert all(".qkv" in point["site"] for point in points if point["kind"] == "prune, heads")
    assert "coverage" in result.output and "all" in result.output
