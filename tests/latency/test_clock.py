"""Milliseconds: layers are timed alone, at other widths, and a budget of them is kept by a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import gngraph.latency.clock as clocks
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget
from gngraph.errors import BudgetError, OptionError
from gngraph.growth import jobs
from gngraph.growth.loop import grow_by
from gngraph.growth.timing import timed_budget
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.latency import LatencyClock, LatencySetting
from gngraph.latency.clock import Measured
from gngraph.latency.stopwatch import layer_seconds, network_seconds
from gngraph.latency.table import TimeTable
from gngraph.latency.units import TimedUnit, timed_units
from gngraph.lowering.to_torch import run
from gngraph.options import GrowOptions
from gngraph.search.widths import allocated
from tests.problems import problem, seed_graph, small_vgg


class MadeUp(LatencyClock):
    """A machine of made-up times.

    A layer takes a microsecond an entry of its sides, twice that where one is not a multiple of four; a network takes `slower`
    times what its layers do.
    """

    slower = 1.0

    def unit_seconds(self, unit: TimedUnit, lengths: tuple[int, ...], swept: int) -> float:
        return 1e-6 * math.prod(length if length % 4 == 0 else 2 * length for length in lengths)

    def measured(self, graph: Graph) -> Measured:
        spaces = ChannelSpaces.of(graph)
        layers = self.of(graph, spaces).layers({space.name: space.size for space in spaces})
        return Measured(self.slower * 1e-6 * layers, 0.0)


class Block(nn.Module):
    """A sum, a depthwise convolution and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.side = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(14, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.deep(x) + x)
        x = torch.cat([x, self.side(x)], 1)
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def block() -> Graph:
    return from_torch(Block().eval(), torch.zeros(2, 3, 8, 8))


def test_a_unit_is_a_layer_with_what_follows_it_and_runs_at_other_widths() -> None:
    graph = block()
    units, left = timed_units(graph, ChannelSpaces.of(graph))
    assert not left
    assert [unit.nodes for unit in units[:2]] == [("first", "norm", "relu"), ("deep", "add", "relu_1")]
    widths = {space.name: space.size + 5 for space in ChannelSpaces.of(graph)}
    for unit in units:
        alone = unit.at(unit.lengths(widths))
        shapes = [[3 if isinstance(n, str) else n for n in alone.nodes[name].shape] for name in alone.inputs]
        assert isinstance(run(alone, *map(torch.zeros, shapes)), torch.Tensor), unit.nodes
    assert units[1].at(units[1].lengths(widths)).params["deep.weight"].data.shape == (13, 1, 3, 3)


def test_units_without_names_are_alike() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    graph = from_torch(net, torch.zeros(2, 6))
    first, second, head = timed_units(graph, ChannelSpaces.of(graph))[0]
    assert first.key((8,)) == first.key((8,)) != first.key((16,))
    assert len(second.extents) == 2 and len(head.extents) == 1


def test_a_channel_costs_nothing_until_a_block_is_full() -> None:
    graph = block()
    spaces = ChannelSpaces.of(graph)
    time = MadeUp(LatencySetting("torch")).of(graph, spaces)
    widths = {space.name: space.size for space in spaces}
    assert time.change("side", widths, 2) == 0 < time.change("side", widths, 3)
    assert time.of(widths) + time.change("side", widths, 3) == time.of({**widths, "side": 9})
    assert "first" in time.neighbours("side")
    assert time.exact(widths) > time.of(widths)  # 6 channels take longer than the 8 that they are priced as


def test_widths_fill_their_blocks_within_a_budget_of_milliseconds() -> None:
    graph = seed_graph("mlp", 0.05)
    spaces, clock = ChannelSpaces.of(graph), MadeUp(LatencySetting("torch"))
    budget = timed_budget(graph, Budget(), 20.0, clock)
    model = budget.model(graph, spaces)
    free = [space.name for space in spaces.free]
    widths = allocated(model, model.widths, dict.fromkeys(free, 1.0), budget)
    assert budget.allows(model.of(widths)) and all(widths[name] % 8 == 0 for name in free)
    assert sum(widths.values()) > sum(model.widths.values())
    both = Budget(model.of(widths).params // 2, None, budget.max_nanoseconds, clock=clock)
    assert both.allows(model.of(allocated(model, model.widths, dict.fromkeys(free, 1.0), both)))


def grown(monkeypatch: pytest.MonkeyPatch, slower: float) -> list[dict[str, object]]:
    clock = MadeUp(LatencySetting("torch"))
    monkeypatch.setattr(jobs, "clock_of", lambda setting: clock)
    graph = small_vgg()
    asked = 2.0 * clock.measured(graph).milliseconds
    options = GrowOptions(max_latency=asked, on="torch", rounds=1, epochs=0, final_epochs=0, depth="keep", perturb=0)
    task = jobs.JOBS["grow"].task(options, graph)
    clock.slower = slower  # what is made is slower than layers tell, which the seed did not show
    monkeypatch.setattr(clock, "anchor", lambda graph: Measured(asked / 2, 0.0))
    return grow_by(task, graph, problem()).history


def test_a_run_keeps_to_its_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    record, final = grown(monkeypatch, 1.0)
    timed = record["latency"]
    assert isinstance(timed, dict) and timed["narrowed"] == 0
    assert timed["before"] < timed["measured"] <= timed["asked"]
    assert final["milliseconds"] == timed["measured"]


def test_what_takes_longer_than_predicted_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = grown(monkeypatch, 1.4)[0]["latency"]
    assert isinstance(timed, dict) and timed["narrowed"] >= 1
    assert timed["predicted"] < timed["measured"] <= timed["asked"]


def test_what_cannot_be_narrowed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    record = grown(monkeypatch, 40.0)[0]
    timed, notes = record["latency"], record["notes"]
    assert isinstance(timed, dict) and timed["measured"] > timed["asked"]
    assert isinstance(notes, list) and any("as far as it was narrowed" in note for note in notes)


def test_nodes_that_cannot_be_timed_alone_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grown(monkeypatch, 1.0)[0]["latency"]["untimed"] == []  # type: ignore[index]
    known = MadeUp.unit_seconds
    monkeypatch.setattr(MadeUp, "unit_seconds", lambda *given: math.nan if "head" in given[1].nodes else known(*given))
    record = grown(monkeypatch, 1.0)[0]
    assert record["latency"]["untimed"] == ["head"]  # type: ignore[index]
    assert "1 nodes cannot be timed alone ('head' first), so that their widths cost no milliseconds" in record["notes"]  # type: ignore[operator]


def test_a_seed_that_is_too_slow_is_refused_and_so_are_layers_that_are_not_timed() -> None:
    with pytest.raises(BudgetError, match="longer than the budget"):
        timed_budget(block(), Budget(), 0.001, MadeUp(LatencySetting("torch")))
    with pytest.raises(OptionError, match="insert"):
        GrowOptions.of(max_latency="5ms", kinds=("split", "insert"))
    with pytest.raises(OptionError, match="5ms"):
        GrowOptions()
    assert GrowOptions.of(max_latency="800us").max_latency == 0.8


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu"])
def test_real_layers_and_networks_take_time(runtime: str) -> None:
    setting = LatencySetting(runtime, batch=2)
    graph = from_torch(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).eval(), torch.zeros(2, 6))
    (unit,), _ = timed_units(graph, ChannelSpaces.of(graph))
    assert (
        layer_seconds(unit.at((16,) * len(unit.extents)), setting, 2**16) >= 0
    )  # some take less than the clock's tick
    if runtime == "torch":  # of onnxruntime the exporter takes 5 s
        seconds, noise = network_seconds(graph, setting)
        assert seconds > 0 and noise >= 0


def test_what_was_timed_once_is_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, graph = LatencySetting("torch"), block()
    monkeypatch.setattr(clocks, "layer_seconds", lambda graph, setting, swept: 1e-3)
    monkeypatch.setattr(clocks, "network_seconds", lambda graph, setting: (0.02, 0.0))
    clock = LatencyClock(setting, tmp_path)
    clock.anchor(graph)
    assert clock.predicted(graph) == pytest.approx(20) and clock.overhead > 0 and clock.factor == 1

    def fail(*args: object) -> float:
        raise AssertionError("it was timed before")

    monkeypatch.setattr(clocks, "layer_seconds", fail)
    monkeypatch.setattr(clocks, "network_seconds", fail)
    again = LatencyClock(setting, tmp_path)
    assert again.anchor(graph).milliseconds == 20 and again.predicted(graph) == clock.predicted(graph)
    with pytest.raises(AssertionError, match="before"):
        LatencyClock(LatencySetting("torch", threads=2), tmp_path).anchor(graph)


def test_layers_that_take_longer_alone_are_taken_for_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "layer_seconds", lambda graph, setting, swept: 1.0)
    monkeypatch.setattr(clocks, "network_seconds", lambda graph, setting: (1.0, 0.0))
    clock = LatencyClock(LatencySetting("torch"))
    clock.anchor(block())
    assert clock.overhead == 0 and clock.factor < 0.5
    assert clock.predicted(block()) == pytest.approx(1000)


def test_a_damaged_table_is_begun_anew(tmp_path: Path) -> None:
    table = TimeTable(tmp_path, {"machine": "one"})
    table.add("layer", [0.5])
    table.save()
    (file,) = tmp_path.iterdir()
    assert TimeTable(tmp_path, {"machine": "one"}).get("layer") == [0.5]
    assert TimeTable(tmp_path, {"machine": "two"}).get("layer") is None
    file.write_text("{")
    assert TimeTable(tmp_path, {"machine": "one"}).get("layer") is None
