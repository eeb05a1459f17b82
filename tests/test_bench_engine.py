"""The table of all bars: what it measures, and what it calls missed."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gngraph.data import load_data
from gngraph.running.problem import Problem
from tools import bench_engine
from tools.bench_cost import named
from tools.bench_engine import BARS, Bar, Figure, Sizes, predictions, show

RATIO = "sets: decrease by it less 1.5 x by the additive rule"
SIZES = Sizes(
    looks=2, unseen=150, candidates=4, counts=(2, 4), cost=(64, 32, 32), selection=(200, 64, 10), hidden=8,
)  # fmt: skip


def test_a_median_outside_its_bar_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [Figure("singles: slope", "", "net", seed, value) for seed, value in enumerate((0.2, 1.0, 1.3))]
    assert show(figures) == 0
    assert "1 (0.2 to 1.3)" in capsys.readouterr().out
    assert show([*figures, replace(figures[0], network="other")]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert show([Figure("singles: slope", "", "net", 0, math.nan)]) == 1  # what was not measured is not met
    assert show([Figure("cross-fitting: learn", "split, mean", "net", 0, -9.0)]) == 0
    assert (str(Bar(0.9, 1.1)), str(Bar(most=4.0)), str(Bar(least=0.98))) == (
        "0.9 to 1.1",
        "at most 4",
        "at least 0.98",
    )


def test_every_figure_of_a_network_is_measured() -> None:
    torch.manual_seed(0)
    problem = Problem(load_data("digits"), device="cpu", learn=150, judge=100, report=100)
    figures = list(predictions(*named("mlp:0.1"), problem, 1, SIZES))
    found = {(figure.what, figure.of) for figure in figures}
    for what in ("singles: Pearson", "singles: Spearman", "singles: slope", "intervals: share inside"):
        assert (what, "") in found
    assert {of for what, of in found if what == "intervals: share inside"} >= {"", "split", "new", "prune", "merge"}
    assert ("sets: |predicted / actual - 1|", "random set, 4 asked") in found
    assert ("cross-fitting: learn", "new, mean") in found
    for of in ("2 asked", "4 asked"):
        assert {("sets: change of the loss by the joint rule", of), (RATIO, of)} <= found
    assert all(0 <= f.value <= 1 for f in figures if f.what.startswith("intervals") and not math.isnan(f.value))


def test_the_selection_is_measured_under_both_numbers_of_factors() -> None:
    threads = torch.get_num_threads()
    found = bench_engine.selected(SIZES, threads)
    assert [(run.factors, run.choice) for run in found] == [
        (1, "no budget"), (1, "budget"), (4, "no budget"), (4, "budget"),
    ]  # fmt: skip
    assert all(run.equal and run.seconds > 0 and 0 < len(run.kinds) <= 10 for run in found)
    assert "selection: seconds" in BARS


def test_one_command_measures_every_part_in_the_sizes_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def part(what: str) -> Callable[..., Iterator[Figure]]:
        def found(*arguments: object) -> Iterator[Figure]:
            asked.extend(a for a in arguments if isinstance(a, (Problem, Sizes)))
            yield Figure(what, "", "mlp", len(asked), 0.5)

        return found

    for name, what in (
        ("predictions", "singles: slope"), ("costs", "cost: judge / epoch"), ("libraries", "gromo: score / its updates"),
        ("selections", "selection: GB"),
    ):  # fmt: skip
        monkeypatch.setattr(bench_engine, name, part(what))
    threads, out = torch.get_num_threads(), tmp_path / "bars.csv"
    arguments = (
        "--data digits --network mlp:0.1 --seeds 2 --samples 150,100,100 --looks 2 --unseen 150 --candidates 4 --counts 2,4 "
        f"--cost-samples 64,32,32 --selection 200,64,10 --hidden 8 --device cpu --threads {threads} --out {out}"
    )
    result = CliRunner().invoke(bench_engine.main, arguments.split())
    assert result.exit_code == 0, result.output
    assert "1 medians miss their bars" in result.output
    with out.open() as file:
        assert [row["what"] for row in csv.DictReader(file)] == [
            *["singles: slope", "cost: judge / epoch"] * 2, "gromo: score / its updates", "selection: GB",
        ]  # fmt: skip
    assert {sizes for sizes in asked if isinstance(sizes, Sizes)} == {SIZES}
    assert [(p.seed, p.learn) for p in asked if isinstance(p, Problem)] == [
        (0, 150),
        (0, 64),
        (1, 150),
        (1, 64),
        (0, 64),
    ]
