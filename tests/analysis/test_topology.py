"""Cut points against a brute-force search, and against values that networks really have."""

from __future__ import annotations

import gc
import weakref
from itertools import combinations

import networkx as nx
import pytest
import torch
import torchvision
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import CutPoint, cut_points, dominating_values, nodes_between
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.layer_removal import removable_layer, removable_layers
from gngraph.search.depth import without
from gngraph.zoo.resnet import ResNet
from gngraph.zoo.spec import SeedSpec
from tests.small_networks import NETWORKS, build, conv_block, imported


def points_of(module: nn.Module, example: torch.Tensor) -> tuple[CutPoint, ...]:
    graph = from_torch(module, example)
    return cut_points(graph, ChannelSpaces.of(graph))


def reachable_without(graph: Graph, missing: str) -> bool:
    """Whether something gets from an input to an output although the value `missing` is taken away."""
    reached = {name for name in graph.inputs if name != missing}
    for node in graph.nodes.values():
        if node.name != missing and node.op != "size" and not reached.isdisjoint(node.inputs):
            reached.add(node.name)
    return not reached.isdisjoint(graph.outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_dominators_are_what_no_path_gets_round(name: str) -> None:
    graph = imported(name)
    assert dominating_values(graph) == tuple(name for name in graph.nodes if not reachable_without(graph, name))


def ancestors(graph: Graph, name: str) -> set[str]:
    """A value and all that it is computed from."""
    found = {name}
    for node in reversed(list(graph.nodes.values())):
        if node.name in found:
            found.update(node.inputs)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_between_two_values_lies_what_only_the_later_is_computed_from(name: str) -> None:
    graph = imported(name)
    for before, value in combinations(dominating_values(graph), 2):
        assert nodes_between(graph, before, value) == ancestors(graph, value) - ancestors(graph, before)


def test_a_ranking_looks_at_the_topology_of_each_snapshot_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many times as there are networks, however many layers; and what is known goes with the network."""
    looked = 0
    search = nx.immediate_dominators

    def counted(*args: object) -> object:
        nonlocal looked
        looked += 1
        return search(*args)

    monkeypatch.setattr(nx, "immediate_dominators", counted)
    graph = from_torch(ResNet(14, SeedSpec(classes=3, input_shape=(1, 8, 8), width=0.25)), torch.zeros(1, 1, 8, 8))
    spaces = ChannelSpaces.of(graph)
    layers = removable_layers(graph, spaces)
    assert len(layers) == 4
    for layer in layers:
        assert removable_layer(graph, spaces, layer.value) == layer
        without(graph, [layer.value])
    assert looked == 1
    without(graph, [layer.value for layer in layers[:3]])  # the networks without none, one and two
    assert looked == 3
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None


def test_cut_points_of_a_resnet_lie_between_its_blocks() -> None:
    """A block's last ReLU is passed by everything; what lies in its branch is not, for the shortcut passes it by."""
    points = points_of(torchvision.models.resnet18(num_classes=3), torch.randn(1, 3, 64, 64))
    blocks = [f"layer{stage}_{block}_relu_1" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [p.value for p in points] == ["relu", "maxpool", *blocks, "avgpool"]
    assert all(p.nonnegative for p in points)
    assert [p.width for p in points] == [64, 64, 64, 64, 128, 128, 256, 256, 512, 512, 512]


def test_cut_points_of_a_vgg_lie_between_its_layers() -> None:
    points = points_of(torchvision.models.vgg11_bn(num_classes=3), torch.randn(1, 3, 32, 32))
    relus = ["features_2", "features_6", "features_10", "features_13", "features_17", "features_20", "features_24"]
    values = {p.value for p in points}
    assert {*relus, "features_27", "features_28", "avgpool", "classifier_2", "classifier_5"} <= values
    assert "flatten" not in values, "a dense layer on 512 x 7 x 7 entries"
    assert all(p.nonnegative and p.axis == 1 for p in points)


def test_branches_of_a_concatenation_hold_no_cut_point() -> None:
    assert [p.value for p in points_of(*build("dense"))] == ["stem_2", "cat", "cat_1", "adaptive_avg_pool2d"]


def test_tokens_have_their_channels_on_the_last_axis() -> None:
    assert [(p.value, p.axis) for p in points_of(*build("token mlp"))] == [("embed", 2), ("add", 2), ("mean", 1)]


def test_one_value_stands_for_a_layer_with_its_norm_and_activation() -> None:
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    )
    assert [(p.value, p.nonnegative) for p in points_of(net.eval(), torch.zeros(2, 4))] == [("_3", True), ("_5", False)]
    late_norm = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2))
    assert [(p.value, p.nonnegative) for p in points_of(late_norm.eval(), torch.zeros(2, 4))] == [("_1", True)]


class Reshaped(nn.Module):
    """Sizes that the forward reads, and a sign that arithmetic loses and keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.head = conv_block(3, 4), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.down((x * 2.0 + 0.5) * -1.0)
        return self.head(torch.relu(x).mean((2, 3)).view(x.size(0), -1))  # type: ignore[no-any-return]


def test_a_value_in_another_shape_is_no_other_place() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    assert [(p.value, p.width) for p in points_of(net.eval(), torch.zeros(2, 2, 6, 6))] == [("_1", 3), ("_5", 5)]


def test_a_size_that_is_read_is_no_path_and_signs_are_followed() -> None:
    points = points_of(Reshaped().eval(), torch.randn(2, 3, 6, 6))
    assert [(p.value, p.nonnegative) for p in points] == [("add", True), ("relu", True), ("mean", True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_called_nonnegative_is_never_below_zero(name: str) -> None:
    graph = imported(name).to(torch.float64)
    lowered = lower(graph)
    shape = [5, *(int(size) for size in graph.nodes[graph.inputs[0]].shape[1:])]
    points = cut_points(graph, ChannelSpaces.of(graph))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        interpreter = Interpreter(lowered.module, garbage_collect_values=False)
        with torch.no_grad():
            interpreter.run(3.0 * torch.randn(shape, generator=generator, dtype=torch.float64))
        for point in points:
            value = interpreter.env[lowered.values[point.value]]
            assert value.shape[1:] == point.type.shape[1:]
            assert not point.nonnegative or float(value.min()) >= 0.0
