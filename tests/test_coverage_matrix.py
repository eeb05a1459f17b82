"""The coverage matrix on small models, and that it sees what is wrong; `tools/coverage_matrix.py` runs all of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import cut_points
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import Lowered, lower
from gngraph.rewrite.insertion import insert_layer
from gngraph.rewrite.morphism import InsertLayer, MergeChannel, Morphism, PruneChannel
from tests import coverage_row, local_errors, merge_errors
from tests.coverage_models import Model, models_of
from tests.coverage_row import round_trip_differences, row_of, training_differences
from tests.families import load
from tests.local_errors import KeptValues, LocalErrors
from tests.merge_errors import MergedValues, multiplications
from tests.morphism_errors import applied
from tests.small_networks import NETWORKS, build, imported
from tools import coverage_matrix

TOOL = Path(__file__).resolve().parent.parent / "tools" / "coverage_matrix.py"


def _analysed(name: str) -> tuple[Graph, ChannelSpaces]:
    graph = imported(name)
    return graph, ChannelSpaces.of(graph)


def _largest(errors: LocalErrors) -> float:
    return max(found.error for found in (errors.split, errors.new, errors.prune) if found is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_local_errors_of_small_networks(name: str) -> None:
    graph, spaces = _analysed(name)
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        assert _largest(kept.errors(space.name, space.size // 2)) <= 1e-13, space.name
    kept.check_untouched()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_wrong_weight_anywhere_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spaces = _analysed(name)
    kept = KeptValues(graph, spaces)
    wrong = ""

    def slightly_wrong(graph: Graph, spaces: ChannelSpaces, morphisms: list[Morphism]) -> Graph:
        right = applied(graph, spaces, morphisms)
        return right.with_params({wrong: right.params[wrong].data * (1 + 1e-6)})

    monkeypatch.setattr(local_errors, "applied", slightly_wrong)
    weights = [key for key, p in graph.params.items() if p.kind == "parameter" and "weight" in key and p.data.dim() > 1]
    for space in spaces.free:
        for wrong in weights:
            errors = kept.errors(space.name, space.size // 2)
            if space.size > 1:
                assert errors.prune is not None and errors.prune.error > 1e-10, (space.name, wrong)
            # a weight that only writes the space is seen through what reads it
            assert errors.split.error > 1e-10, (space.name, wrong)


def test_a_prune_of_the_wrong_channel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spaces = _analysed("residual")
    kept = KeptValues(graph, spaces)

    def neighbour(graph: Graph, spaces: ChannelSpaces, morphisms: list[Morphism]) -> Graph:
        moved = [PruneChannel(m.space, m.channel + 1) if isinstance(m, PruneChannel) else m for m in morphisms]
        return applied(graph, spaces, moved)

    monkeypatch.setattr(local_errors, "applied", neighbour)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        assert errors.split.error <= 1e-13
        assert errors.prune is not None and errors.prune.error > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_merges_and_insertions_in_small_networks(name: str) -> None:
    graph, spaces = _analysed(name)
    kept = MergedValues(graph, spaces)
    merges = {space.name: kept.merged(space.name, space.size // 2) for space in spaces.free}
    wide = {space.name for space in spaces.free if space.size > 1}
    assert wide <= {space for space, found in merges.items() if found is not None}
    assert all(found is None or found.error <= 1e-13 for found in merges.values())
    points = cut_points(graph, spaces)
    assert points
    for point in points:
        assert kept.inserted(point).error <= 1e-13, point.value
    kept.check_untouched()


@pytest.mark.parametrize("name", ["plain", "dense", "squeeze-excite", "shared reader", "tied weights", "token mlp"])
def test_a_wrong_merge_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spaces = _analysed(name)
    kept = MergedValues(graph, spaces)

    def slightly_wrong(graph: Graph, spaces: ChannelSpaces, morphisms: list[Morphism]) -> Graph:
        return applied(graph, spaces, [_scaled(m) if isinstance(m, MergeChannel) else m for m in morphisms])

    monkeypatch.setattr(merge_errors, "applied", slightly_wrong)
    for space in spaces.free:
        found = kept.merged(space.name, space.size // 2)
        assert found is not None and found.error > 1e-10, space.name
        twin = kept.merged_back(space.name, space.size // 2)
        assert twin is not None and twin.error > 1e-10, space.name


def _scaled(merge: MergeChannel) -> MergeChannel:
    return MergeChannel(merge.space, merge.channel, {param: b * (1 + 1e-6) for param, b in merge.weights.items()})


def test_an_insertion_that_changes_the_function_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spaces = _analysed("residual")
    kept = MergedValues(graph, spaces)

    def learned(graph: Graph, spaces: ChannelSpaces, morphism: InsertLayer) -> Graph:
        deeper = insert_layer(graph, spaces, morphism)
        added = [name for name in deeper.params if name not in graph.params and name.endswith("weight")]
        return deeper.with_params({added[-1]: deeper.params[added[-1]].data + 1e-6})

    monkeypatch.setattr(merge_errors, "insert_layer", learned)
    points = cut_points(graph, spaces)
    assert [point.value for point in points if kept.inserted(point).error <= 1e-10] == []


def test_the_price_of_an_insertion() -> None:
    graph, spaces = _analysed("residual")
    price = {point.value: multiplications(point) for point in cut_points(graph, spaces)}
    assert price == {"stem_2": 6 * 6 * 9 * 64, "relu": 6 * 6 * 9 * 64, "mean": 6 * 6 * 16}


def test_only_the_surroundings_of_a_space_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    family = load("resnet18")
    kept = KeptValues(family.graph, family.spaces)
    computed: list[int] = []

    def counted(graph: Graph) -> Lowered:
        computed.append(sum(node.op != "input" for node in graph.nodes.values()))
        return lower(graph)

    monkeypatch.setattr(local_errors, "lower", counted)
    kept.errors("layer4.0.conv1", 3)
    assert len(computed) == 4  # split, new, pruned, masked
    assert max(computed) <= 5  # convolution, BatchNorm, ReLU, convolution, and not the BatchNorm behind it
    assert len(family.graph.nodes) > 60


def test_the_families_are_whole() -> None:
    counts = {family: len(models_of(family)) for family in ("classification", "segmentation", "video", "quantizable")}
    assert counts == {"classification": 80, "segmentation": 6, "video": 9, "quantizable": 12}
    assert len(models_of("all")) == 107


def test_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(Model("classification", "squeezenet1_1"), sample=2)
    assert row.verdict == "pass"
    assert (row.checked, row.free, row.round_trip, row.training) == (row.free, 25, "bit-identical", "alike")
    assert row.frozen_reasons == "1 x it is the network's output"
    assert (row.merged, row.inserted, row.cut_points, row.removed, row.removable) == (7, 8, 22, 1, 1)
    assert row.memory_run is not None and row.memory is not None and row.memory_run < row.memory
    monkeypatch.setattr(Model, "build", lambda self: build("residual"))
    monkeypatch.setattr(coverage_row, "LARGE", 100)
    assert row_of(Model("classification", "squeezenet1_1"), sample=2).checked == 2


class Branching(nn.Module):
    """What no trace can follow: a branch on a tensor's values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


def a_gibibyte_to_analyse(function: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[object, int, float]:
    return function(*args, **kwargs), 1 << 30 if function is coverage_row.analyse else 0, 0.0


def test_a_row_of_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Model) -> tuple[nn.Module, torch.Tensor]:
        return Branching(), torch.zeros(2, 3)

    monkeypatch.setattr(Model, "build", refused)
    row = row_of(Model("classification", "squeezenet1_1"), sample=2)
    assert not row.passes and row.params and row.free is None
    assert row.verdict.startswith("UnsupportedModelError: ")

    monkeypatch.undo()
    monkeypatch.setattr(Model, "build", lambda self: build("squeeze-excite"))
    monkeypatch.setattr(coverage_row, "MEMORY", 1e6)
    monkeypatch.setattr(coverage_row, "BAR", 0.0)
    row = row_of(Model("classification", "squeezenet1_1"), sample=2)
    assert not row.passes and "split is off by" in row.verdict
    assert any("merge is off by" in failure for failure in row.failures)
    assert any(failure.startswith("removal of the layer at") for failure in row.failures)

    monkeypatch.setattr(coverage_row, "BAR", 1e-11)
    monkeypatch.setattr(coverage_row, "MEMORY", 2.6)
    monkeypatch.setattr(coverage_row, "measured", a_gibibyte_to_analyse)
    row = row_of(Model("classification", "squeezenet1_1"), sample=2)
    assert [failure.split(" take ")[0] for failure in row.failures] == ["trace and analysis"]
    monkeypatch.setattr(coverage_row, "NODE", 2**40)  # which would be no bar at all
    row = row_of(Model("classification", "squeezenet1_1"), sample=2)
    assert row.passes and "KiB a node" in row.note


def test_round_trip_differences_are_seen() -> None:
    network, example = build("residual")
    graph = from_torch(network, example)
    assert round_trip_differences(network, example, graph) == []
    other = graph.with_params({"inner.1.running_var": graph.params["inner.1.running_var"].data * 1.01})
    differences = round_trip_differences(build("residual")[0], example, other)
    assert differences == ["outputs differ in eval mode", "buffers differ after a train step"]


def test_differences_in_training_are_seen() -> None:
    network, example = build("residual")
    graph = from_torch(network, example)
    assert training_differences(network, example, graph) == []
    network, _ = build("residual")
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.2
    differences = training_differences(network, example, graph)
    assert any("running_mean in step 2 (train mode)" in difference for difference in differences)
    network, _ = build("residual")
    next(network.parameters()).requires_grad_(False)
    assert any(difference.startswith("gradient of") for difference in training_differences(network, example, graph))


def test_the_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "matrix.csv"
    words = [str(TOOL), "--out", str(out), "--jobs", "1", "squeezenet1_1"]
    first = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    monkeypatch.setattr(sys, "argv", [*words, "squeezenet1_0", "--resume", "--reasons"])
    monkeypatch.setattr(Model, "build", lambda self: build("residual"))
    monkeypatch.setattr(
        coverage_matrix, "rows_of", lambda models, sample, jobs: [row_of(model, sample) for model in models]
    )
    assert coverage_matrix.main() == 0
    second = capsys.readouterr().out
    assert "squeezenet1_1" not in second and "2 of 2 models pass" in second
    assert "frozen 'head': it is the network's output" in second
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["verdict"]) for row in rows] == [("squeezenet1_1", "pass"), ("squeezenet1_0", "pass")]
    assert float(rows[0]["memory"]) > 1 and float(rows[0]["share"]) > 0.5
