"""Milliseconds: units are timed within whole networks, at other widths, and a budget of them is kept by a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

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
from gngraph.latency.fitting import UnitTimes
from gngraph.latency.networks import at_widths, in_units, sampled_widths
from gngraph.latency.stopwatch import WholeNetwork, network_seconds, unit_seconds
from gngraph.latency.table import TimeTable
from gngraph.latency.units import TimedUnit, timed_units
from gngraph.lowering.to_torch import run
from gngraph.options import GrowOptions
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel
from gngraph.search.widths import allocated
from tests.problems import problem, seed_graph, small_vgg


class MadeUp(LatencyClock):
    """A machine of made-up times.

    A layer takes a microsecond an entry of its sides, twice that where one is not a multiple of four; a network takes `slower`
    times what its layers do.
    """

    slower = 1.0

    def __init__(self) -> None:
        super().__init__(LatencySetting("torch"))
        self.block = 8

    def _learn(self, graph: Graph, spaces: ChannelSpaces, units: Sequence[TimedUnit]) -> None:
        pass

    def unit_seconds(self, unit: TimedUnit, lengths: tuple[int, ...]) -> float:
        return 1e-6 * math.prod(length if length % 4 == 0 else 2 * length for length in lengths)

    def measured(self, graph: Graph) -> Measured:
        spaces = ChannelSpaces.of(graph)
        together = self.of(graph, spaces).units({space.name: space.size for space in spaces})
        return Measured(self.slower * 1e-6 * together, 0.0)


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


class Beside(nn.Module):
    """Heads that go with the samples along one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 3 * 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = (y.view(n, t, 4, 2).transpose(1, 2).reshape(n * 4, t, 2) for y in self.qkv(x).chunk(3, -1))
        y = (torch.bmm(q, k.transpose(1, 2)).softmax(-1) @ v).view(n, 4, t, 2)
        out: torch.Tensor = self.out(y.transpose(1, 2).reshape(n, t, 8))
        return out


def test_heads_beside_the_samples_take_their_time() -> None:
    graph = from_torch(Beside(), torch.randn(2, 5, 6))
    spaces = ChannelSpaces.of(graph)
    (heads,) = spaces.free
    assert heads.size == 4
    units = {unit.nodes[0]: unit for unit in timed_units(graph, spaces)}
    beside = [node for node in graph.nodes.values() if node.op in ("matmul", "softmax")]
    assert len(beside) == 3 and all(node.shape[0] == "4*N" for node in beside)
    for node in beside:
        unit = next(unit for unit in units.values() if node.name in unit.nodes)
        assert unit.spaces == {heads.name} and unit.lengths({heads.name: 6}) == (6,)
    other = morph(graph, spaces, [NewChannel(heads.name)]).graph
    again = {unit.nodes[0]: unit.key for unit in timed_units(other, ChannelSpaces.of(other))}
    assert again == {name: unit.key for name, unit in units.items()}


def test_a_unit_is_a_layer_with_what_follows_it() -> None:
    graph = block()
    units = timed_units(graph, ChannelSpaces.of(graph))
    assert [unit.nodes for unit in units[:2]] == [("first", "norm", "relu"), ("deep", "add", "relu_1")]
    first, side = units[0], next(unit for unit in units if "side" in unit.nodes)
    assert first.sizes == ((0,),) and side.sizes == ((0,), (1,), (0, 1))  # what it reads, writes, and its weight


def test_a_network_runs_at_any_widths_and_in_units_as_it_does_whole() -> None:
    graph = block()
    spaces = ChannelSpaces.of(graph)
    units = timed_units(graph, spaces)
    assert in_units(graph, units)(x := torch.randn(3, 3, 8, 8)).equal(run(graph, x))
    for widths in sampled_widths(spaces, 4, 8):
        other = at_widths(graph, spaces, widths)
        assert other.params["deep.weight"].data.shape == (widths["first"], 1, 3, 3)
        again = ChannelSpaces.of(other)
        assert {space.name: space.size for space in again} == widths
        assert [unit.key for unit in timed_units(other, again)] == [unit.key for unit in units]
        assert in_units(other, units)(x).equal(run(other, x))


def test_units_without_names_are_alike() -> None:
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)), nn.Linear(6, 2)).eval()
    graph = from_torch(net, torch.zeros(2, 6))
    first, second, third, _, head = timed_units(graph, ChannelSpaces.of(graph))
    assert second.key == third.key != first.key
    assert len(second.extents) == 2 and len(head.extents) == 1


def test_times_are_fitted_in_widths_and_in_how_they_lie_in_memory() -> None:
    def true(read: int, written: int) -> float:
        full = [-(-n // 16) * 16 if n % 4 == 0 else n for n in (read, written)]
        return (1 if read % 4 == 0 else 2) * (3e-6 + 2e-8 * full[0] + 1e-8 * full[1] + 5e-9 * full[0] * full[1])

    known = UnitTimes([(0,), (1,), (0, 1)], 16)
    for read, written in product((16, 31, 48, 97), (16, 33, 80, 65)):
        known.add((read, written), true(read, written))
    for lengths in ((40, 60), (40, 61), (41, 60), (43, 61), (128, 128)):
        assert known.at(lengths) == pytest.approx(true(*lengths), rel=0.06), lengths
    assert known.at((36, 60)) == known.at((48, 64))
    assert known.reach((20, 60)) and not known.reach((8, 60)) and not known.reach((20, 120))


def test_a_layout_that_takes_twenty_times_as_long_does_not_hide_behind_the_others() -> None:
    def true(width: int) -> float:
        return 3e-6 + (4e-9 if width % 4 == 0 else 8e-8) * width

    known = UnitTimes([(0,)], 16)
    for width in (960, 744, 464, 560, 704, 608, 880, 656, 1088, 1216, 438, 665, 1141):
        known.add((width,), true(width))
    known.add((1600,), 20 * true(1600))  # another program had the cache
    for width in (500, 511, 1001, 1024):
        full = -(-width // 16) * 16 if width % 4 == 0 else width
        assert known.at((width,)) == pytest.approx(true(full), rel=0.1), width


def test_a_channel_costs_nothing_until_a_block_is_full() -> None:
    graph = block()
    spaces = ChannelSpaces.of(graph)
    time = MadeUp().of(graph, spaces)
    widths = {space.name: space.size for space in spaces}
    assert time.change("side", widths, 2) <= 0 < time.change("side", widths, 3)
    assert time.change("side", {**widths, "side": 9}, 7) == 0 < time.change("side", {**widths, "side": 9}, 8)
    assert time.of(widths) + time.change("side", widths, 3) == time.of({**widths, "side": 9})
    assert "first" in time.neighbours("side")
    assert time.exact(widths) == time.of(widths) > time.of({**widths, "side": 8})  # 6 channels take longer than 8


def test_widths_fill_their_blocks_within_a_budget_of_milliseconds() -> None:
    graph = seed_graph("mlp", 0.05)
    spaces, clock = ChannelSpaces.of(graph), MadeUp()
    budget = timed_budget(graph, Budget(), 20.0, clock)
    model = budget.model(graph, spaces)
    free = [space.name for space in spaces.free]
    widths = allocated(model, model.widths, dict.fromkeys(free, 1.0), budget)
    assert budget.allows(model.of(widths)) and all(widths[name] % 8 == 0 for name in free)
    assert sum(widths.values()) > sum(model.widths.values())
    both = Budget(model.of(widths).params // 2, None, budget.max_nanoseconds, clock=clock)
    assert both.allows(model.of(allocated(model, model.widths, dict.fromkeys(free, 1.0), both)))


def grown(monkeypatch: pytest.MonkeyPatch, slower: float) -> list[dict[str, object]]:
    clock = MadeUp()
    monkeypatch.setattr(jobs, "clock_of", lambda setting: clock)
    graph = small_vgg()
    asked = 2.0 * clock.measured(graph).milliseconds
    options = GrowOptions(max_latency=asked, on="torch", rounds=1, epochs=0, final_epochs=0, depth="keep", perturb=0)
    task = jobs.JOBS["grow"].task(options, graph)
    clock.slower = slower  # what is made is slower than layers tell, which the seed did not show
    monkeypatch.setattr(clock, "anchor", lambda graph: Measured(asked / 2, 0.0))
    return grow_by(task, graph, problem()).history


def test_widths_are_laid_out_for_vectors_where_milliseconds_are_bounded() -> None:
    timed = GrowOptions(max_latency=5.0, max_params=10_000)
    assert jobs.scope_of(timed).multiple == 4
    assert jobs.scope_of(GrowOptions(max_latency=5.0, round_to=6)).multiple == 12
    assert jobs.scope_of(GrowOptions(max_params=10_000)).multiple == 1
    assert jobs.scope_of(GrowOptions(max_latency=5.0, allocation="none")).multiple == 1


def test_a_run_keeps_to_its_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    record, final = grown(monkeypatch, 1.0)
    timed = record["latency"]
    assert isinstance(timed, dict) and timed["tries"] == 1
    assert timed["before"] < timed["measured"] <= timed["asked"]
    assert final["milliseconds"] == timed["measured"]


def test_what_takes_longer_than_predicted_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = grown(monkeypatch, 1.4)[0]["latency"]
    assert isinstance(timed, dict) and timed["tries"] > 1
    assert timed["predicted"] < timed["measured"] <= timed["asked"]


def test_what_cannot_be_narrowed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    record = grown(monkeypatch, 40.0)[0]
    timed, notes = record["latency"], record["notes"]
    assert isinstance(timed, dict) and timed["measured"] > timed["asked"]
    assert isinstance(notes, list) and any("that is faster was found" in note for note in notes)


def test_a_seed_that_is_too_slow_is_refused_and_so_are_kinds_without_a_price() -> None:
    with pytest.raises(BudgetError, match="longer than the budget"):
        timed_budget(block(), Budget(), 0.001, MadeUp())
    with pytest.raises(OptionError, match="insert"):
        GrowOptions.of(max_latency="5ms", kinds=("split", "insert"))
    with pytest.raises(OptionError, match="5ms"):
        GrowOptions()
    assert GrowOptions.of(max_latency="800us").max_latency == 0.8


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu"])
def test_real_units_and_networks_take_time(runtime: str) -> None:
    setting, graph = LatencySetting(runtime, batch=2), block()
    spaces = ChannelSpaces.of(graph)
    units = timed_units(graph, spaces)
    wide = at_widths(graph, spaces, {space.name: 64 * space.size if space.frozen is None else 4 for space in spaces})
    narrow, wider = unit_seconds(graph, (graph, wide), units, setting)
    assert len(narrow) == len(units) and min(narrow) >= 0 and max(narrow) > 0  # some take less than the clock's tick
    assert sum(wider) > sum(narrow)
    if runtime == "torch":  # of onnxruntime the exporter of what is deployed takes 5 s
        whole = WholeNetwork(graph, setting)
        seconds, noise = network_seconds(whole, (whole, 1.0))
        assert 0.1 < seconds < 10 and noise >= 0  # taken for as much slower as the known network is


def test_what_was_timed_once_is_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, graph = LatencySetting("torch"), block()

    def timed(present: Graph, others: Iterable[Graph], units: Sequence[TimedUnit], setting: LatencySetting) -> Any:
        return ([1e-3] * len(units) for _ in others)

    monkeypatch.setattr(clocks, "unit_seconds", timed)
    monkeypatch.setattr(clocks, "network_seconds", lambda network, known: (0.02, 0.0))
    clock = LatencyClock(setting, tmp_path)
    clock.anchor(graph)
    assert clock.predicted(graph) == pytest.approx(20) and clock.overhead > 0

    def fail(*args: object) -> float:
        raise AssertionError("it was timed before")

    monkeypatch.setattr(clocks, "network_seconds", fail)
    monkeypatch.setattr(clocks, "unit_seconds", lambda present, others, units, setting: (fail() for _ in others))
    again = LatencyClock(setting, tmp_path)
    assert again.anchor(graph).milliseconds == 20 and again.predicted(graph) == clock.predicted(graph)
    with pytest.raises(AssertionError, match="before"):
        LatencyClock(LatencySetting("torch", threads=2), tmp_path).anchor(graph)


def test_what_timing_the_units_takes_is_not_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(present: Graph, others: Iterable[Graph], units: Sequence[TimedUnit], setting: LatencySetting) -> Any:
        for other in others:
            width = other.params["first.weight"].data.shape[0]
            yield [0.3 + 0.01 * width if "first" in unit.nodes else 0.3 for unit in units]

    monkeypatch.setattr(clocks, "unit_seconds", timed)
    monkeypatch.setattr(
        clocks, "network_seconds", lambda network, known: (1.3, 0.0)
    )  # 0.1 of a unit are the clock's own
    clock, graph = LatencyClock(LatencySetting("torch")), block()
    clock.anchor(graph)
    assert clock.overhead < 0 and clock.predicted(graph) == pytest.approx(1300)
    spaces = ChannelSpaces.of(graph)
    widths = {space.name: space.size for space in spaces}
    time = clock.of(graph, spaces)
    wider, wide = (time.exact(widths | {"first": width}) for width in (48, 32))  # full blocks of any machine
    assert 0.08e9 < wider - wide < 0.2e9  # in full blocks; none of it is lost by what timing takes
    assert time.exact(widths | {"first": 1}) > 0


def test_a_damaged_table_is_begun_anew(tmp_path: Path) -> None:
    table = TimeTable(tmp_path, {"machine": "one"})
    table.add("layer", [0.5])
    table.save()
    (file,) = tmp_path.iterdir()
    assert TimeTable(tmp_path, {"machine": "one"}).get("layer") == [0.5]
    assert TimeTable(tmp_path, {"machine": "two"}).get("layer") is None
    file.write_text("{")
    assert TimeTable(tmp_path, {"machine": "one"}).get("layer") is None
