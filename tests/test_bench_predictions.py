"""The benchmarks of predictions over sets, and of cross-fitting."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import torch
from click.testing import CliRunner

from gngraph.analysis.manager import AnalysisManager
from gngraph.data import load_data
from gngraph.rewrite.morphism import SplitChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from tools import bench_crossfit, bench_predictions
from tools.bench_crossfit import LEARNED, Uncrossed, rows_of
from tools.measuring import trained

TINY = "--data digits --network mlp --width 0.1 --epochs 1 --seeds 1 --samples 200,100,100 --candidates 6 --threads 1"


def test_predictions_of_single_candidates_and_sets_with_their_coverage(tmp_path: Path) -> None:
    threads, out = torch.get_num_threads(), tmp_path / "figures.jsonl"
    arguments = [*TINY.split(), "--curvature", "mc", "--counts", "2,4", "--unseen", "200", "--out", str(out)]
    result = CliRunner().invoke(bench_predictions.main, arguments)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "coverage" in result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    singles = {row["kind"]: row for row in rows if row["kind"] not in ("set", "round")}
    assert set(singles) == {"split", "prune"}
    assert singles["prune"]["pearson"] > 0.9 and 0.5 <= singles["prune"]["coverage"] <= 1
    assert singles["prune"]["coverage, samples alone"] <= singles["prune"]["coverage"]
    random = {row["asked"]: row for row in rows if row.get("rule") == "random"}
    assert {asked: row["splits"] for asked, row in random.items()} == {2: 2, 4: 4}
    assert all(row["predicted"] == row["together"] for row in random.values())
    rounds = {row["round"]: row for row in rows if row["kind"] == "round"}
    assert set(rounds) == {f"{kind} {share} %" for kind in ("remove", "split") for share in (25, 50, 75)}
    assert all(abs(row["predicted"] - row["actual"]) < 4 * row["error"] for row in rounds.values())
    assert "rounds, reported" in result.output and "rounds, by the model" in result.output


def test_a_set_splits_no_channel_twice() -> None:
    problem = Problem(load_data("digits"), device="cpu", learn=50, judge=50, report=50)
    scores = AnalysisManager(problem).get(GaussNewton(kinds=("split",)), trained("mlp", 0.1, problem, 0))
    twice = [0, 0, *range(len(scores.candidates))]
    drawn = bench_predictions.one_a_channel(scores, twice, 5)
    splits = [scores.candidates[i].morphism for i in drawn]
    assert len({(s.space, s.channel) for s in splits if isinstance(s, SplitChannel)}) == 5


def test_without_cross_fitting_the_same_is_learned_and_judged_where_it_was_learned() -> None:
    problem = Problem(load_data("digits"), device="cpu", learn=150, judge=300, report=300, batch_size=64)
    torch.manual_seed(0)
    graph = trained("mlp", 0.1, problem, 4, lr=0.05)  # trained longer, nothing is chosen
    options = GaussNewton(kinds=LEARNED)
    uncrossed = Uncrossed.of(problem)
    assert list(uncrossed.splits.judge.indices) == list(problem.splits.learn.indices)
    assert list(uncrossed.splits.report.indices) == list(problem.splits.report.indices)
    crossed, same = (AnalysisManager(p).get(options, graph) for p in (problem, uncrossed))
    for ours, theirs in zip(crossed.candidates, same.candidates, strict=True):
        if isinstance(ours.morphism, SplitChannel) and isinstance(theirs.morphism, SplitChannel):
            assert ours.morphism.d1 is not None and theirs.morphism.d1 is not None
            torch.testing.assert_close(ours.morphism.d1, theirs.morphism.d1)
    rows = {(row.kind, row.chosen): row for row in rows_of(graph, problem, "mlp", options, crossed, LEARNED, 20, 8)}
    new = rows["new", ""]
    # what 150 samples taught them is not what they do to others
    assert new.learn < min(new.judge, new.report, new.actual)
    overfitted = rows["set", "learn"]
    assert overfitted.learn < overfitted.report and math.isnan(overfitted.judge)


def test_crossfit_prints_and_writes_every_row(tmp_path: Path) -> None:
    threads, out = torch.get_num_threads(), tmp_path / "rows.csv"
    arguments = [*TINY.split(), "--size", "4", "--kinds", "split,new", "--device", "cpu", "--out", str(out)]
    result = CliRunner().invoke(bench_crossfit.main, arguments)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    with out.open() as file:
        found = [(row["kind"], row["chosen"]) for row in csv.DictReader(file)]
    assert found[:2] == [("split", ""), ("new", "")] and ("set", "learn") in found
    assert "predicted: learn" in result.output and "set chosen" in result.output
