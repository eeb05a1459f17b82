"""The benchmarks of predictions: what they measure, and one run of `tools/fig3.py` on digits."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.data import load_data
from gngraph.importing.from_torch import from_torch
from gngraph.rewrite.morphism import InsertLayer, Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from tools import fig3
from tools.measuring import Agreement, Samples, apply, changes, sample, trained, unanalysed


def test_agreement() -> None:
    met = Agreement.of([1.0, 2.0, 3.0, 4.0], [0.0, 4.0, 4.0, 90.0])
    ranks = np.corrcoef([0, 1, 2, 3], [0, 1.5, 1.5, 3])[0, 1]
    assert met.spearman == pytest.approx(ranks) and met.pearson < met.spearman
    assert met.slope == pytest.approx(27.0) and met.points == 4
    assert np.isnan(Agreement.of([1.0, 2.0], [1.0, 2.0]).pearson)


def test_changes_are_those_of_the_mean_loss_and_unanalysed_samples_are_in_no_split() -> None:
    problem = Problem(load_data("digits"), device="cpu", learn=400, judge=300, report=300)
    graph = trained("mlp", 0.25, problem, 0)
    space = next(iter(ChannelSpaces.of(graph).free))
    pruned = apply(graph, [PruneChannel(space.name, 0)])
    rest = unanalysed(problem, 200)
    (found,) = (c["rest"] for c in changes(graph, [pruned], {"rest": Samples(problem, rest)}))
    assert found.mean == pytest.approx(mean_loss(pruned, problem, rest) - mean_loss(graph, problem, rest), abs=1e-6)
    assert 0 < found.error < 1
    x = {tuple(rest[i][0].flatten().tolist()) for i in range(len(rest))}
    seen = {tuple(split[i][0].flatten().tolist()) for split in problem.splits for i in range(len(split))}
    assert len(x) > 190 and not x & seen
    assert sorted(sample(problem, range(5), 9)) == [0, 1, 2, 3, 4] and len(set(sample(problem, range(9), 3))) == 3


def test_changes_are_those_of_the_mean_loss_for_more_networks_than_are_measured_at_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 10)
    )
    problem = Problem(load_data("digits"), device="cpu", learn=30, judge=30, report=150)
    graph = from_torch(net.eval(), torch.zeros(1, 1, 8, 8))
    first, second = (space.name for space in ChannelSpaces.of(graph).free)
    morphisms: list[Morphism] = [
        PruneChannel(first, 1), SplitChannel(second, 2), PruneChannel(second, 0), NewChannel(first),
        InsertLayer(next(node.name for node in graph.nodes.values() if node.op == "relu")),
    ]  # fmt: skip
    others = [apply(graph, [morphism]) for morphism in morphisms] * 4  # more than are measured at once
    report = problem.splits.report
    found = list(changes(graph, others, {"report": Samples(problem, report)}))
    base = mean_loss(graph, problem, report)
    assert [c["report"].mean for c in found] == pytest.approx(
        [mean_loss(other, problem, report) - base for other in others], abs=1e-9
    )
    assert abs(found[0]["report"].mean) > 1e-5 and abs(found[2]["report"].mean) > 1e-5


def test_coverage_counts_the_noise_of_the_actual_change_where_asked() -> None:
    def point(unseen: float) -> fig3.Point:
        return fig3.Point("n", 0, "split", "s", 0, "0", 0.0, 1.0, 0.0, 0.1, 0.5, unseen, 2.0)

    points = [point(0.0), point(3.0), point(5.0), point(-3.0)]
    assert fig3.coverage(points, "unseen", noisy=False) == 0.25
    assert fig3.coverage(points, "unseen") == 0.75
    assert fig3.coverage(points, "actual") == 1.0
    assert fig3.coverage(points, "actual", error="sampling") == 0.0
    assert np.isnan(fig3.coverage([replace(point, unseen=np.nan) for point in points], "unseen"))


def test_fig3_writes_points_that_agree(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    arguments = "--data digits --network mlp --epochs 0 --samples 300,200,200 --unseen 300 --candidates 8 --device cpu"
    out = tmp_path / "figure"
    result = CliRunner().invoke(
        fig3.main, [*arguments.split(), "--kinds", "split,prune", "--out", str(out), "--threads", str(threads)]
    )
    assert result.exit_code == 0, result.output
    assert out.with_suffix(".png").stat().st_size > 5000
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["split"] * 8 + ["prune"] * 8
    for kind in ("split", "prune"):
        pairs = [(float(row["predicted"]), float(row["actual"])) for row in rows if row["kind"] == kind]
        assert Agreement.of(*zip(*pairs, strict=True)).pearson > 0.95
    result = CliRunner().invoke(fig3.main, [*arguments.split(), "--kinds", "graft", "--out", str(out)])
    assert result.exit_code == 2 and "there is no kind 'graft'" in result.output
    assert fig3.scored_together(["split", "new"]) == [("split", "new")]
    assert fig3.scored_together(["split", "split-firefly"]) == [("split",), ("split-firefly",)]
