"""The page: complete, alone, and safe whatever a network's names are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gngraph.errors import GnGraphError
from gngraph.report.page import page, write_report
from gngraph.report.runs import ReportedRun, read_run
from tests.report.made_runs import made_run

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_the_page_tells_what_was_given_asked_and_reached() -> None:
    text = page([made_run({"a": 30, "b": 20, "c": 12})])
    lead = re.search(r'class="lead">(.*?)<', text)
    assert lead is not None and "Grown from 1,400 to" in lead[1] and "in 3 rounds, within the 1,000,000,000" in lead[1]
    for promised in (
        "refused: it harms; exact new channels",
        "without b: of 2 depths",
        "a note",
        "it is the network&#39;s output",
    ):
        assert promised in text


def test_names_cannot_write_into_the_page() -> None:
    text = page([made_run({EVIL: 9, "b": 9}, name=EVIL)])
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["names"][0] == EVIL


def test_the_page_asks_for_nothing() -> None:
    text = page([made_run({"a": 9, "b": 9})])
    assert "default-src 'none'" in text and "<link" not in text
    outside = set(re.findall(r"(?:src|href)=[\"'](?!#)([^\"']*)", text)) | set(re.findall(r"url\((?!#)([^)]*)\)", text))
    assert not outside


def test_a_run_without_channel_records_says_so() -> None:
    run = made_run({"a": 9, "b": 9})
    text = page([replace(run, channels=())])
    assert "has no channels.jsonl" in text and "application/json" not in text


def test_a_run_that_goes_on_says_so() -> None:
    run = made_run({"a": 9, "b": 9})
    assert "The run has not ended" in page([replace(run, history=run.history[:1], channels=run.channels[:2])])


def test_several_runs_are_compared_first() -> None:
    runs = [made_run({"a": size, "b": size}, name=f"run {size}", seed=size) for size in (9, 18)]
    text = page(runs)
    assert "<title>2 runs</title>" in text and text.index("Pareto front") < text.index('id="run-1"') < text.index(
        'id="run-2"'
    )
    assert "No other run is as good for less, by parameters: run 9; by FLOPs: run 9." in text
    assert text.count('class="architecture"') == 2


def written(folder: Path, run: ReportedRun) -> Path:
    folder.mkdir()
    for name, records in (("history.jsonl", run.history), ("channels.jsonl", run.channels)):
        (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def test_folders_are_read(tmp_path: Path) -> None:
    folder = written(tmp_path / "some run", made_run({"a": 9, "b": 9}))
    run = read_run(folder)
    assert (run.name, len(run.rounds), len(run.channels)) == ("some run", 3, 5)
    assert write_report([run], folder / "report.html").read_text().startswith("<!doctype html>")


def test_channels_of_a_round_that_was_never_finished_are_left_out(tmp_path: Path) -> None:
    run = made_run({"a": 9, "b": 9})
    folder = written(tmp_path / "run", replace(run, history=run.history[:2]))
    assert [record["round"] for record in read_run(folder).channels] == [0, 1, 2]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GnGraphError, match=r"holds no run: it has no history\.jsonl"):
        read_run(tmp_path)
    (tmp_path / "history.jsonl").touch()
    with pytest.raises(GnGraphError, match="has finished no round yet"):
        read_run(tmp_path)
