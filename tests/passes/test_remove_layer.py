"""Removals of layers: exactly what the morphism says, learned where a layer is linear, and complete networks in every form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.lowering.probe import probe_of
from gngraph.rewrite import NewChannel, RemoveLayer, morph
from gngraph.rewrite.layer_removal import RemovableLayer, removable_layers, remove_layer
from gngraph.running.problem import Problem
from gngraph.scoring.layer_rebuilding import rebuilt_removal
from gngraph.source.export import export_source
from gngraph.training.optimizer_state import OptimizerState, carry_state
from tests.passes.test_insert_layer import state_keys
from tests.removal_errors import removal_error, removed
from tests.small_networks import NETWORKS, build, calibrated, imported


class Chain(nn.Module):
    """Layers of a chain behind which stand a pool and a flatten, whose width is an integer in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, padding=1)
        self.third, self.head = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        x = torch.relu(self.third(x))
        return self.head(torch.max_pool2d(x, 2).view(-1, 45))  # type: ignore[no-any-return]


def chain() -> tuple[Chain, Graph]:
    torch.manual_seed(0)
    network = Chain().eval()
    return network, from_torch(network, torch.randn(2, 3, 8, 8))


def layers_of(graph: Graph) -> tuple[RemovableLayer, ...]:
    return removable_layers(graph, ChannelSpaces.of(graph))


def random_removal(graph: Graph, layer: RemovableLayer) -> RemoveLayer:
    spaces = ChannelSpaces.of(graph)
    shape = (spaces[layer.space].size, spaces[layer.source_space].size)
    return RemoveLayer(layer.value, {slot.param: torch.randn(shape, dtype=torch.float64) for slot in layer.reads})


def without(graph: Graph, value: str) -> Graph:
    layer = next(layer for layer in layers_of(graph) if layer.value == value)
    return remove_layer(graph, ChannelSpaces.of(graph), random_removal(graph, layer)).graph


def test_readers_of_a_chain_read_the_combination_that_the_morphism_names() -> None:
    network, graph = chain()
    network, graph = network.double(), graph.to(torch.float64)
    assert [(layer.source, layer.value) for layer in layers_of(graph)] == [("relu", "relu_1"), ("relu_1", "relu_2")]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    combination, constant = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    removal = RemoveLayer("relu_1", {"third.weight": combination}, {"third": constant})
    shallower = morph(graph, ChannelSpaces.of(graph), [removal]).graph
    rebuilt = torch.einsum("cp,nphw->nchw", combination, torch.relu(network.first(x)))
    third = network.third(rebuilt) + (network.third.weight.sum((2, 3)) @ constant).view(1, -1, 1, 1)
    expected = network.head(torch.max_pool2d(torch.relu(third), 2).flatten(1))
    torch.testing.assert_close(gngraph.to_torch(shallower)(x), expected)
    assert list(shallower.params) == [name for name in graph.params if not name.startswith("second")]

    combination = torch.randn(
        5, 6, dtype=torch.float64
    )  # behind the pool and the flatten, which are no layers of their own
    removal = RemoveLayer("relu_2", {"head.weight": combination})
    shallower = morph(graph, ChannelSpaces.of(graph), [removal]).graph
    pooled = torch.max_pool2d(torch.relu(network.second(torch.relu(network.first(x)))), 2)
    expected = network.head(torch.einsum("cp,nphw->nchw", combination, pooled).flatten(1))
    torch.testing.assert_close(gngraph.to_torch(shallower)(x), expected)
    assert shallower.params["head.weight"].data.shape == (3, 6 * 9)


def test_a_block_that_is_removed_leaves_its_stream() -> None:
    graph = from_torch(calibrated(torchvision.models.resnet18(num_classes=3), 3, 64, 64), torch.randn(2, 3, 64, 64))
    graph = graph.to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    found = layers_of(graph)
    assert [layer.value for layer in found] == [
        "layer1_0_relu_1", "layer1_1_relu_1", "layer2_1_relu_1", "layer3_1_relu_1", "layer4_1_relu_1"
    ]  # fmt: skip
    assert [layer.title(graph) for layer in found] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    for layer in found:
        last = graph.nodes[layer.value].scope + ".bn2"
        zero = {f"{last}.{role}": torch.zeros_like(graph.params[f"{last}.{role}"].data) for role in ("weight", "bias")}
        shallower = morph(graph, spaces, [RemoveLayer(layer.value)]).graph
        assert relative_error(graph.with_params(zero), shallower) < 1e-12
        assert relative_error(graph, shallower) > 1e-3
        assert not any(name.startswith(graph.nodes[layer.value].scope) for name in shallower.params)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_removal_is_exact_and_complete_in_every_form(name: str, tmp_path: Path) -> None:
    module, example = build(name)
    graph = from_torch(module, example)
    for i, layer in enumerate(layers_of(graph)):
        spaces = ChannelSpaces.of(graph)
        assert removal_error(graph.to(torch.float64), spaces, layer, (example,))[1] < 1e-12
        shallower, _ = removed(graph, spaces, layer)
        frozen = {space.name for space in ChannelSpaces.of(shallower) if space.frozen is not None}
        assert not frozen & {space.name for space in ChannelSpaces.of(graph).free}, "a free space was frozen"
        before, after = cost(graph), cost(shallower)
        assert after.flops < before.flops and after.params <= before.params  # a module called twice keeps its own
        again = gngraph.to_torch(shallower)
        assert list(again.state_dict()) == state_keys(shallower)
        assert same_structure(parse(format_graph(shallower)), shallower)
        path = tmp_path / f"{i}.gng"
        gngraph.save(shallower, path)
        assert relative_error(gngraph.load(path), shallower) == 0.0
        export_source(shallower, tmp_path / str(i))  # runs what it wrote, and compares
        traced = from_torch(again, example)
        assert cost(traced) == cost(shallower) and state_keys(traced) == state_keys(shallower)


def test_among_the_small_networks_some_have_layers_that_can_go() -> None:
    removable = {name: len(layers_of(imported(name))) for name in NETWORKS}
    assert sum(count > 0 for count in removable.values()) >= 3, removable


class Linear(nn.Module):
    """A layer that is linear: what stands before it can rebuild it without loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 3, 1), nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.third(self.second(torch.relu(self.first(x))))).mean((2, 3))


def test_a_linear_layer_is_rebuilt_without_loss() -> None:
    torch.manual_seed(0)
    data = (torch.randn(240, 2, 8, 8), torch.arange(240) % 4)
    graph = from_torch(Linear(), torch.randn(2, 2, 8, 8))
    analyses = AnalysisManager(Problem(data, device="cpu", learn=80, judge=80, report=80))
    result = gngraph.PassManager("remove-layer{at=second}", analyses).run(graph)
    assert [m.record() for m in result.results[0].morphisms] == [{"kind": "remove", "at": "second"}]
    assert "second.weight" not in result.graph.params and result.graph.params["third.weight"].data.shape == (4, 5, 3, 3)
    x = torch.randn(50, 2, 8, 8)
    before, after = (gngraph.to_torch(g)(x) for g in (graph, result.graph))
    assert float((before - after).abs().max().detach() / before.abs().max().detach()) < 2e-3


def test_what_is_rebuilt_is_the_least_squares_solution() -> None:
    network, graph = chain()
    data = (torch.randn(240, 3, 8, 8), torch.arange(240) % 3)
    problem = Problem(data, device="cpu", learn=80, judge=80, report=80)
    removal = rebuilt_removal(graph, AnalysisManager(problem), layers_of(graph)[0])
    x = torch.stack([problem.splits.learn[i][0] for i in range(80)])
    given = torch.relu(network.first(x)).movedim(1, -1).flatten(0, 2).double()
    asked = torch.relu(network.second(torch.relu(network.first(x)))).movedim(1, -1).flatten(0, 2).double()
    ones = torch.ones(len(given), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([given, ones], 1), asked).solution.T.detach()
    torch.testing.assert_close(removal.weights["third.weight"].double(), solution[:, :-1], rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(removal.means["third"].double(), solution[:, -1:], rtol=2e-2, atol=2e-3)


def test_several_layers_go_one_after_another_and_are_rebuilt_from_what_is_left() -> None:
    _, graph = chain()
    data = (torch.randn(240, 3, 8, 8), torch.arange(240) % 3)
    analyses = AnalysisManager(Problem(data, device="cpu", learn=80, judge=80, report=80))
    result = gngraph.PassManager("remove-layer{at=*}", analyses).run(graph)
    assert [node.op for node in result.graph.nodes.values()].count("conv2d") == 1
    assert result.graph.params["head.weight"].data.shape == (3, 4 * 9)
    assert list(result.results[0].gathers) == ["third.weight", "head.weight"]


def test_the_optimiser_forgets_what_is_rebuilt_and_nothing_else() -> None:
    _, graph = chain()
    layer = layers_of(graph)[0]
    rewritten = morph(graph, ChannelSpaces.of(graph), [random_removal(graph, layer), NewChannel("first")])
    state = OptimizerState({n: {"momentum_buffer": torch.ones_like(p.data)} for n, p in graph.params.items()})
    carried = {n: e["momentum_buffer"] for n, e in carry_state(state, graph, rewritten).entries.items()}
    assert carried["third.weight"].shape == (5, 5, 3, 3) and not carried["third.weight"].any()
    assert carried["first.weight"].shape == (5, 3, 3, 3) and float(carried["first.weight"].sum()) == 4 * 27
    assert bool((carried["head.weight"] == 1).all())


def test_a_layer_whose_channels_others_write_or_that_changes_positions_stays() -> None:
    resnet = from_torch(torchvision.models.resnet18(num_classes=3), torch.randn(1, 3, 64, 64))
    assert not any("layer2_0" in layer.value for layer in layers_of(resnet)), "a stride lies between"
    shared = layers_of(imported("shared module"))
    assert not any(layer.reads for layer in shared), (
        "a convolution that is called twice writes its channels outside, too"
    )


class Spread(nn.Module):
    """A layer whose channels are multiplied by their own variance."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 5), nn.Linear(5, 7), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x))
        z: torch.Tensor = self.third(y * y.var(-1, keepdim=True))
        return z


def test_a_layer_whose_channels_a_statistic_behind_it_counts_stays() -> None:
    graph = from_torch(Spread(), torch.randn(2, 4))
    assert not [layer for layer in removable_layers(graph, ChannelSpaces.of(graph)) if layer.space == "second"]


def test_blocks_of_a_transformer_go_one_by_one() -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    x = torch.randn(2, 3, 32, 32)
    graph = from_torch(network, x)
    titles = [layer.title(graph).removeprefix("encoder.layers.encoder_layer_") for layer in layers_of(graph)]
    assert titles == ["0.self_attention", "0.mlp", "1.self_attention", "1.mlp"]
    for layer in layers_of(graph):
        assert removal_error(graph.to(torch.float64), ChannelSpaces.of(graph), layer, (x,))[1] < 1e-12
    bare = gngraph.PassManager("remove-layer{at=*}").run(graph).graph
    assert not any("encoder_layer_" in name for name in bare.params) and "class_token" in bare.params
    assert gngraph.to_torch(bare)(x).shape == (2, 5)


def test_a_deep_network_survives_onnx(tmp_path: Path) -> None:
    stages = [[1, 8, 1, 1], [4, 12, 4, 2], [4, 16, 4, 2]]
    network = calibrated(torchvision.models.MobileNetV2(3, 0.5, stages), 3, 32, 32)
    graph = from_torch(network, torch.randn(2, 3, 32, 32))
    for layer in layers_of(graph)[::2]:
        graph = without(graph, layer.value)
    assert all(torch.isfinite(out).all() for out in outputs64(graph, probe_of(graph)))
    export_onnx(graph, tmp_path / "shallow.onnx")


def test_bad_input_is_told() -> None:
    _, graph = chain()
    spaces = ChannelSpaces.of(graph)
    with pytest.raises(PassError, match="learns from data how the layers behind 'relu_1' do without it"):
        gngraph.PassManager("remove-layer{at=second}").run(graph)
    with pytest.raises(PassError, match="no layer that can be removed and matches 'secnd'; did you mean 'second'"):
        gngraph.PassManager("remove-layer{at=secnd}").run(graph)
    with pytest.raises(PassError, match=r"does not say which layer goes: name it, such as remove-layer\{at=second"):
        gngraph.PassManager("remove-layer").run(graph)
    with pytest.raises(PassError, match="needs a combination of the 4 before it, but none was given"):
        morph(graph, spaces, [RemoveLayer("relu_1")])
    with pytest.raises(PassError, match=r"of the 4 before it, but \(6, 5\) was given"):
        morph(graph, spaces, [RemoveLayer("relu_1", {"third.weight": torch.zeros(6, 5)})])
    with pytest.raises(
        PassError, match="no layer of 'Chain' that ends at 'third' can be removed; those that can end at relu_1"
    ):
        morph(graph, spaces, [RemoveLayer("third")])
