"""docs/results.md keeps its promises: every command starts and knows its options; the code points to sections that are there."""

from __future__ import annotations

import re
import runpy
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.test_readme import PAGES, ROOT, TOOLS, heading_names
from tools import bench_cost, bench_growth, bench_selection

SCRIPTS: dict[str, set[str]] = defaultdict(set)
"""Script -> options that the pages give it."""
for _, _words in TOOLS:
    SCRIPTS[_words[0]] |= {word.partition("=")[0] for word in _words[1:] if word.startswith("--")}


def test_every_benchmark_has_its_command() -> None:
    kinds = ("bench_", "check_", "coverage_", "fig")
    there = {path.stem for path in (ROOT / "tools").glob("*.py") if path.stem.startswith(kinds)}
    named = {Path(script).stem for script in SCRIPTS}
    assert not there - named, f"docs/results.md, Measuring again, does not say how to run {there - named}"
    absent = {script for script in SCRIPTS if not (ROOT / script).is_file()}
    assert not absent, f"there is no {absent}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_starts_and_knows_its_options(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])  # as Python has it for a script
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    assert not SCRIPTS[script] - known


@pytest.mark.parametrize("words", [words for _, words in TOOLS if words[0].endswith("bench_growth.py")], ids=" ".join)
def test_methods_of_growth_exist(words: list[str]) -> None:
    given = dict(pairwise(words))
    assert bench_growth.with_repeats(words[1], given.get("--methods", bench_growth.DEFAULTS[words[1]]).split(","))


def test_what_scoring_costs_is_printed_of_a_small_network() -> None:
    threads = torch.get_num_threads()
    words = (
        "--data digits --network vgg11:0.05 --seeds 1 --samples 64,32,32 --looks 2 --products 2 --hidden 8 --threads"
    )
    result = CliRunner().invoke(bench_cost.main, [*words.split(), str(threads)])
    assert result.exit_code == 0, result.output
    for printed in ("score / epoch", "scoring MB", "curvlinops", "gromo"):
        assert printed in result.output


def test_the_joint_selection_is_timed_on_made_up_moments() -> None:
    threads = torch.get_num_threads()
    words = (
        "--network mlp --width 0.1 --candidates 60 --samples 64 --report-samples 64 --chosen 8 --factors 1 --threads"
    )
    result = CliRunner().invoke(bench_selection.main, [*words.split(), str(threads)])
    assert result.exit_code == 0, result.output
    assert result.output.count("equal to the plain rule's") == 2


def test_a_trained_network_is_shrunk_by_one_command(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    words = "shrink --data digits --train 120 --network mlp --epochs 1 --rounds 1 --tuning 1 --samples 40 --budget 4k --device cpu"
    arguments = [*words.split(), "--methods", "same,gn-prune", "--threads", str(threads), "--out", str(tmp_path)]
    result = CliRunner().invoke(bench_growth.main, arguments)
    assert result.exit_code == 0, result.output
    assert "gn-prune: accuracy" in result.output and (tmp_path / "growth.png").is_file()


def test_the_code_points_to_sections_that_exist() -> None:
    sections = heading_names(PAGES["docs/results.md"])
    pointed = {
        (str(path.relative_to(ROOT)), anchor)
        for folder in ("gngraph", "passes", "tools")
        for path in (ROOT / folder).rglob("*.py")
        for anchor in re.findall(r"docs/results\.md#([\w-]*)", path.read_text("utf-8"))
    }
    assert len(pointed) >= 9
    assert not {(path, anchor) for path, anchor in pointed if anchor not in sections}


def test_constants_are_called_so_in_the_files_that_are_named() -> None:
    constants = PAGES["docs/results.md"].partition("## Constants")[2].partition("\n## ")[0]
    for section in constants.split("\n### ")[1:]:
        paths = re.findall(r"`((?:gngraph/)?[\w/]+\.py)`", section)
        code = "".join((ROOT / path).read_text("utf-8") for path in paths if path.startswith("gngraph/"))
        for name in re.findall(r"`([A-Z][A-Z_]+)`", section):
            assert re.search(rf"^(?:\w+, )*{name}\b", code, re.MULTILINE), f"{section.splitlines()[0]}: {name}"
