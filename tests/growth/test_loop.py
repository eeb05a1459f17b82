"""The growth loop: budgets hold, runs repeat, bad selections are refused, and nothing is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel, cost
from gngraph.api import grow
from gngraph.errors import BudgetError, GnGraphError, TrainingError
from gngraph.files.archive import load, load_history
from gngraph.growth import rounds
from gngraph.growth.history import Record, read_history, without_seconds
from gngraph.growth.jobs import Task
from gngraph.growth.journal import STAGES
from gngraph.growth.loop import grow_by
from gngraph.growth.result import GrowthResult
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, diff
from gngraph.options import RunOptions, TrainOptions
from gngraph.rewrite.morphism import SplitChannel
from gngraph.running.evaluation import mean_loss
from gngraph.scoring.selection import Selection
from gngraph.search import decision
from gngraph.search.situation import Plan, Situation
from gngraph.search.strategy import GaussNewtonGrowth
from gngraph.training.progress import EpochRecord
from tests.problems import dropping, problem, seed_graph, small_vgg

TRAIN = TrainOptions(batch_size=32)


def grown(graph: Graph, factor: float = 3.0, rounds: int = 2, out: Path | None = None) -> GrowthResult:
    limit = int(cost(graph).params * factor)
    return grow(graph, problem(), max_params=limit, rounds=rounds, epochs=1, final_epochs=1, out=out, train=TRAIN)


def same(a: Graph, b: Graph) -> bool:
    return a.params.keys() == b.params.keys() and all(torch.equal(a.params[n].data, b.params[n].data) for n in a.params)


@pytest.mark.parametrize("build", [seed_graph, small_vgg, dropping])
def test_growth_uses_up_the_budget_and_never_exceeds_it(build: Callable[[], Graph]) -> None:
    seed = build()
    result = grown(seed)
    limit = int(cost(seed).params * 3)
    assert [record["kind"] for record in result.history] == ["round", "round", "final"]
    for record in result.history[:2]:
        assert record["params"] <= record["target"]["params"] <= limit
    spaces = ChannelSpaces.of(result.graph)
    model = CostModel(result.graph, spaces)
    smallest = min(model.marginal(space.name, model.widths).params for space in spaces.free)
    assert limit - smallest < cost(result.graph).params <= limit
    assert cost(result.graph).params == result.history[-1]["params"]


def test_both_sides_of_a_budget_hold() -> None:
    seed = small_vgg()
    size = cost(seed)
    result = grow(
        seed,
        problem(),
        max_params=4 * size.params,
        max_flops=2 * size.flops,
        rounds=2,
        epochs=1,
        final_epochs=0,
        train=TRAIN,
    )
    after = cost(result.graph)
    assert after.flops <= 2 * size.flops and after.params <= 4 * size.params
    assert after.flops > 1.8 * size.flops


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = grown(dropping()), grown(dropping())
    assert without_seconds(first.history) == without_seconds(second.history)
    assert same(first.graph, second.graph)


def test_a_record_says_what_was_done_and_what_came_of_it() -> None:
    result = grown(small_vgg())
    record = result.history[0]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["seconds"]) == set(STAGES) and record["refused"] is None
    assert record["report_loss"]["before"] + record["actual"] == pytest.approx(record["report_loss"]["after"])
    before, after = record["trained"]["widths"], record["widths"]
    assert set(before) - set(after) == set(record["depth"]["removed"]), "spaces go with their layers"
    for space, width in before.items():
        if space not in after:
            continue
        entry = record["morphisms"].get(space, {})
        change = (
            len(entry.get("split", []))
            + entry.get("new", 0)
            - len(entry.get("prune", []))
            - len(entry.get("merge", []))
        )
        assert after[space] == width + change
    assert result.history[1]["trained"]["widths"] == after
    assert 0 <= record["accuracy"] <= 1


def test_lineage_describes_the_grown_network() -> None:
    result = grown(seed_graph())
    spaces = {s.name: [(slot.param, slot.axis) for slot in s.slots] for s in ChannelSpaces.of(result.seed).free}
    change = diff(result.seed, result.graph, spaces=spaces, lineage=result.lineage)
    assert change is not None
    widths = {space.name: space.size for space in ChannelSpaces.of(result.graph).free}
    assert {name: len(sources) for name, sources in result.lineage.items()} == widths


def test_a_selection_that_harms_is_refused_for_exact_new_channels() -> None:
    seed = seed_graph()
    row = seed.params["hidden.0.weight"].data[:1]
    harm = SplitChannel("hidden.0", 0, "hidden.0.weight", row + 50, row - 50)

    class Harmful(GaussNewtonGrowth):
        def plan(self, situation: Situation, selection: Selection) -> Plan:
            return Plan(selection, (harm,)) if selection.predicted else super().plan(situation, selection)

        def learned(self, situation: Situation) -> Selection:
            return replace(super().learned(situation), predicted=-0.1)

    limit = Budget(3 * cost(seed).params)
    options = RunOptions(rounds=1, epochs=1, final_epochs=1, perturb=0.0, depth="keep", train=TRAIN)
    result = grow_by(Task(Harmful(), limit, options), seed, problem())
    record = result.history[0]
    assert record["refused"].startswith("the judge loss changed by +")
    assert record["refused_morphisms"] == {"hidden.0": {"split": [0]}}
    assert all(set(entry) == {"new"} for entry in record["morphisms"].values())
    assert record["actual"] > 1  # what was refused stays on record
    assert record["report_loss"]["after"] == pytest.approx(record["report_loss"]["before"], rel=1e-4)


def test_a_seed_beyond_the_budget_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    size = cost(seed_graph()).params
    with pytest.raises(BudgetError, match=f"the seed has {size:,} parameters, more than the budget of {size - 1:,}"):
        grow(seed_graph(), problem(), max_params=size - 1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_seed_at_the_budget_keeps_its_size() -> None:
    result = grown(seed_graph(), factor=1.0, rounds=1)
    assert result.history[0]["params"] <= cost(result.seed).params


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + 1


def test_a_network_with_two_outputs_and_a_loss_on_one_is_refused() -> None:
    with pytest.raises(GnGraphError, match='reads one tensor, but the outputs are "0" and "1": name one'):
        grow(from_torch(Two(), torch.zeros(2, 1, 8, 8)), problem(), max_params=2000, epochs=0)


class Diary:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.records: list[Record] = []

    def stage_started(self, number: int, stage: str) -> None:
        self.events.append(f"{number} {stage}")

    def epoch_finished(self, number: int, epoch: EpochRecord) -> None:
        self.events.append(f"epoch {epoch.epoch}")

    def round_finished(self, record: Record) -> None:
        self.records.append(record)


def test_an_observer_is_told_everything_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    diary = Diary()
    seed = seed_graph()
    limit = 2 * cost(seed).params
    result = grow(seed, problem(), max_params=limit, rounds=2, epochs=2, final_epochs=1, observer=diary, train=TRAIN)
    assert [e for e in diary.events if e.startswith("epoch")] == [f"epoch {n}" for n in range(1, 6)]
    assert diary.events[:4] == ["1 train", "epoch 1", "epoch 2", "1 evaluate"] and "3 train" in diary.events
    assert diary.records == result.history
    assert capsys.readouterr() == ("", "")


def test_a_run_that_breaks_off_leaves_the_last_finished_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: object, *arguments: object) -> None:
        raise TrainingError("the training loss became 'nan'")

    monkeypatch.setattr(rounds.Rounds, "finish", broken)
    with pytest.raises(TrainingError):
        grown(seed_graph(), out=tmp_path)
    history = read_history(tmp_path / "history.jsonl")
    kept = load(tmp_path / "model.gng")
    assert [record["round"] for record in history] == [1, 2]
    assert cost(kept).params == history[-1]["params"]
    assert mean_loss(kept, problem(), problem().splits.report) == pytest.approx(
        history[-1]["report_loss"]["reestimated"], rel=1e-5
    )
    archived = load_history(tmp_path / "model.gng")
    assert isinstance(archived, dict) and archived["rounds"] == without_seconds(history), (
        "seconds are in history.jsonl alone"
    )


@pytest.mark.parametrize(
    ("allocation", "asks"),
    [("worth", True), ("lookahead", True), ("equal-worths", False), ("uniform", False), ("none", False)],
)
def test_worths_are_measured_only_for_a_rule_that_asks(
    allocation: str, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(*arguments: object) -> dict[str, float]:
        asked.append(arguments)
        return {}

    monkeypatch.setattr(decision, "measured_worths", measured)
    seed = seed_graph()
    grow(
        seed,
        problem(),
        max_params=2 * cost(seed).params,
        rounds=1,
        epochs=1,
        final_epochs=0,
        allocation=allocation,
        train=TRAIN,
    )
    assert len(asked) == asks
