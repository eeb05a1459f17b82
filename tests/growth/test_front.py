"""Several budgets: each run is the one of its budget alone, and what they share is done once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

import gngraph
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import BudgetError, GnGraphError, OptionError
from gngraph.ir import Graph
from gngraph.options import FrontOptions, TrainOptions
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.training.progress import EpochRecord
from tests.command_line import Commands, write_bars
from tests.problems import problem, seed_graph

KEPT = {
    "rounds": 2,
    "epochs": 1,
    "final_epochs": 1,
    "depth": "keep",
    "perturb": 0.1,
    "train": TrainOptions(batch_size=32),
}


class Epochs:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        self.seen.append((number, epoch.epoch))


def test_each_run_is_that_of_its_budget_and_shares_are_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, seed, epochs = list[object](), seed_graph(), Epochs()
    run = GaussNewton.run

    def counted(self: GaussNewton, graph: Graph, analyses: AnalysisManager) -> Scores:
        ran.append(graph)
        return run(self, graph, analyses)

    monkeypatch.setattr(GaussNewton, "run", counted)
    several = gngraph.grow_front(seed, problem(), KEPT, max_params=[900, 1_400], observer=epochs)
    assert len(ran) == 3, "the first round's network is scored once for both"
    assert epochs.seen == [(1, 1), (2, 2), (3, 3), (2, 2), (3, 3)]
    for result, most in zip(several, (900, 1_400), strict=True):
        alone = gngraph.grow(seed, problem(), KEPT, max_params=most).graph.params
        assert {name: list(p.data.shape) for name, p in result.graph.params.items()} == {
            name: list(p.data.shape) for name, p in alone.items()
        }
        assert all(torch.equal(alone[name].data, p.data) for name, p in result.graph.params.items())


def test_the_command_writes_a_folder_a_budget_and_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gngraph.report.page.tell", lambda result, folder: (folder / "report.html", ()))
    write_bars(tmp_path / "bars.npz")
    command = Commands(capsys)
    command.ok("seed", "mlp", "--width", "0.03", "--classes", "3", "--input-shape", "1x8x8", "-o", "seed.gng")
    words = ("--rounds", 1, "--epochs", 0, "--final-epochs", 0, "--depth", "keep", "--perturb", 0, "--kinds", "prune")
    own = ("grow", "seed.gng", "--data", "bars.npz", "--max-params", "800,900", *words, "-o", "run")
    done = command(*own, "--json")
    assert [run["output"] for run in json.loads(done.out)["runs"]] == ["run/800-params", "run/900-params"]
    assert "budget 2 of 2: 900 parameters" in done.err
    assert [gngraph.load(f"run/{most}-params/model.gng").num_params() <= most for most in (800, 900)] == [True, True]
    page = Path("run/report.html").read_text("utf-8")
    assert "800-params" in page and "900-params" in page and "Pareto" in page
    recorded = tomllib.loads(Path("run/config.toml").read_text("utf-8"))
    assert recorded["grow"]["max_params"] == [800, 900] and recorded["model"]["model"] == "seed.gng"
    assert "is not empty" in command.refused(*own)


def test_budgets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for own, message in (
        ({"max_params": "2k,2k"}, "named twice"),
        ({"max_params": "2k,3k", "max_flops": "1k,2k,3k"}, "as many budgets"),
        ({}, "growth needs a budget"),
        ({"max_params": ()}, "as many budgets"),
        ({"max_params": "2k,many"}, "must be a count such as 250k or 1.5M or several"),
    ):
        with pytest.raises(OptionError, match=message):
            FrontOptions.of(own)
    pairs = FrontOptions.of({"max_params": "2k,3k", "max_flops": "1M"}).each()
    assert [(own.max_params, own.max_flops) for own in pairs] == [(2000, 1_000_000), (3000, 1_000_000)]
    with pytest.raises(BudgetError, match="more than the budget of 100"):
        gngraph.grow_front(seed_graph(), problem(), KEPT, max_params=[2_000, 100], out=tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "2000-params").mkdir()
    (tmp_path / "2000-params/history.jsonl").write_text("")
    with pytest.raises(GnGraphError, match="holds a run"):
        gngraph.grow_front(seed_graph(), problem(), KEPT, max_params=[1_000, 2_000], out=tmp_path)
