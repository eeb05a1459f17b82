"""The benchmark of structures says what a search finds beside plain designs, and goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from click.testing import CliRunner

from tools.bench_structure import STORE, main


def test_a_family_is_searched_and_trained_once(tmp_path: Path) -> None:
    words = "--data digits --train 200 --network mlp --budget 4k --epochs 1 --run-epochs 2 --samples 60 --changes skips"
    arguments = [*words.split(), "--device", "cpu", "--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    lines = [json.loads(line) for line in (tmp_path / STORE).read_text(encoding="utf-8").splitlines()]
    assert [line["method"] for line in lines] == [
        "plain",
        "search",
        "depth",
        "structure",
        "family:skips",
        "depth:skips",
    ]
    assert all(line["params"] <= 4000 for line in lines if line["method"] != "search")
    assert [line["method"] for line in lines if "by" not in line] == ["plain"]
    again = CliRunner().invoke(main, arguments)
    assert again.output.splitlines()[-6:] == first.output.splitlines()[-6:]
    assert len((tmp_path / STORE).read_text(encoding="utf-8").splitlines()) == len(lines)
    store = tmp_path / STORE
    store.write_text(store.read_text(encoding="utf-8").replace(lines[1]["by"], "another"), encoding="utf-8")
    CliRunner().invoke(main, arguments)
    later = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    assert [line["method"] for line in later[len(lines) :]] == [line["method"] for line in lines[1:]], "searched anew"
