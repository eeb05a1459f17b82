"""Insertions: exact at every cut point of every kind of network, and complete networks in every form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.topology import cut_points
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.rewrite import InsertLayer, Morphism, NewChannel, PruneChannel, SplitChannel, morph
from gngraph.rewrite.insertion import BLOCKS, insert_layer
from gngraph.rewrite.masking import masked
from gngraph.source.export import export_source
from tests.morphism_errors import errors_of
from tests.small_networks import NETWORKS, build, calibrated, imported


def inserted(graph: Graph, passes: str) -> Graph:
    return gngraph.PassManager(passes).run(graph).graph


@pytest.mark.parametrize("name", NETWORKS)
def test_every_insertion_preserves_the_function_and_keeps_spaces_free(name: str) -> None:
    graph = imported(name).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    free = {space.name for space in spaces.free}
    for point in cut_points(graph, spaces):
        for block in BLOCKS if point.nonnegative else ("residual",):
            deeper = insert_layer(graph, spaces, InsertLayer(point.value, block))
            assert relative_error(graph, deeper) < 1e-13, (point, block)
            grown = ChannelSpaces.of(deeper)
            assert free <= {space.name for space in grown.free}, "a free space was frozen"
            own = {space for (param, _), entries in grown.axes.items() if "inserted1" in param for space, _ in entries}
            was_free = all(space in free for space, _, _ in spaces.layouts[point.value, point.axis])
            assert own and (not was_free or own <= {space.name for space in grown.free}), (point, block)
            for space in own.intersection(space.name for space in grown.free):
                errors = errors_of(deeper, grown, space)
                assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_every_form_of_a_deeper_network_is_complete(name: str, tmp_path: Path) -> None:
    module, example = build(name)
    graph = from_torch(module, example)
    deeper = inserted(graph, "insert-layer,insert-layer{count=1}")
    again = gngraph.to_torch(deeper)
    assert list(again.state_dict()) == state_keys(deeper)
    assert same_structure(parse(format_graph(deeper)), deeper)
    gngraph.save(deeper, tmp_path / "deep.gng")
    loaded = gngraph.load(tmp_path / "deep.gng")
    assert same_structure(loaded, deeper) and relative_error(loaded, deeper) == 0.0
    export_source(deeper, tmp_path)  # runs what it wrote, and compares
    traced = from_torch(again, example)
    assert cost(traced) == cost(deeper) and state_keys(traced) == state_keys(deeper)


def state_keys(graph: Graph) -> list[str]:
    keys = list(graph.params)
    aliases = [(position, alias) for p in graph.params.values() for alias, position in p.aliases]
    for position, alias in sorted(aliases):
        keys.insert(position, alias)
    return [key for key in keys if key not in graph.params or graph.params[key].kind != "constant"]


class Trunk(nn.Module):
    """A block that is called twice, and trainable where a layer has been inserted in one of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 3)
        self.block = nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.block(torch.relu(self.stem(x)))).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_module_that_is_called_twice_takes_a_layer_in_one_of_its_calls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, example = Trunk().eval(), torch.randn(2, 3, 8, 8)
    graph = from_torch(network, example)
    deeper = inserted(graph, "insert-layer{at=block_1}")
    assert "block.inserted1.outer.weight" in deeper.params and len(deeper.nodes) == len(graph.nodes) + 4
    export_source(deeper, tmp_path)


def test_layers_in_a_vgg_survive_onnx_and_train(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers([16, "M", 24, "M", 8, "M"], batch_norm=True)
    network = torchvision.models.VGG(layers, num_classes=3)
    network.classifier = nn.Sequential(nn.Linear(8 * 7 * 7, 8), nn.ReLU(), nn.Linear(8, 3))
    network, example = calibrated(network, 3, 32, 32), torch.randn(2, 3, 32, 32)
    graph = from_torch(network, example)
    deeper = inserted(graph, "insert-layer{at=features.2,block=layer},insert-layer{at=features.6}")
    assert len(deeper.nodes) == len(graph.nodes) + 2 + 4
    assert cost(deeper).params == cost(graph).params + 16 * (16 * 9 + 1) + 2 * 24 * (24 * 9 + 1)
    names = list(deeper.params)
    assert names.index("features.inserted2.outer.bias") + 1 == names.index("classifier.0.weight")
    module = gngraph.to_torch(deeper)
    torch.testing.assert_close(module(example), network(example), rtol=1e-4, atol=1e-5)
    export_onnx(deeper, tmp_path / "deep.onnx")
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    module.train()(example).square().sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if "inserted" in name and p.grad is not None}
    moving = {name for name, gradient in gradients.items() if bool(gradient.abs().max() > 0)}
    assert {"features.inserted1.weight", "features.inserted2.outer.weight"} <= moving
    optimizer.step()
    assert not torch.equal(module.get_parameter("features.inserted2.outer.weight"), torch.zeros(24, 24, 3, 3))


def test_count_spreads_insertions_over_the_depth() -> None:
    graph = from_torch(torchvision.models.resnet18(num_classes=3), torch.randn(1, 3, 64, 64))
    run = gngraph.PassManager("insert-layer{at=layer*,count=4}").run(graph)
    places = [m.at for m in run.results[0].morphisms if isinstance(m, InsertLayer)]
    assert places == [f"layer{stage}_1_relu_1" for stage in (1, 2, 3, 4)]
    assert run.graph.params["layer2.1.inserted1.inner.weight"].data.shape == (128, 128, 3, 3)


def test_one_position_takes_a_convolution_of_one_entry_and_tokens_a_linear_layer() -> None:
    graph = from_torch(torchvision.models.resnet18(num_classes=3), torch.randn(1, 3, 64, 64))
    assert inserted(graph, "insert-layer{at=avgpool}").params["inserted1.inner.weight"].data.shape == (512, 512, 1, 1)
    tokens = inserted(imported("token mlp"), "insert-layer{at=add}")
    assert tokens.params["inserted1.inner.weight"].data.shape == (6, 6)


@pytest.mark.parametrize("block", BLOCKS)
def test_layers_and_channels_are_applied_together(block: str) -> None:
    """Without anything learned a layer is exact at whatever width its value has after the other morphisms."""
    graph = imported("plain").to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    wider: list[Morphism] = [SplitChannel("0", 1), NewChannel("0"), InsertLayer("_1", block), SplitChannel("2", 0)]
    assert relative_error(graph, morph(graph, spaces, wider).graph) < 1e-13
    narrower: list[Morphism] = [PruneChannel("0", 1), InsertLayer("_1", block), InsertLayer("_4", block)]
    result = morph(graph, spaces, narrower)
    assert relative_error(masked(graph, spaces, narrower[:1]), result.graph) < 1e-13
    assert set(result.edits) == {"0"} and "0.weight" in result.gathers and "inserted1.weight" not in result.gathers


def test_what_was_learned_at_another_width_is_refused() -> None:
    graph = imported("plain")
    spaces = ChannelSpaces.of(graph)
    learned = InsertLayer("_1", "layer", {"weight": torch.zeros(5, 5, 3, 3)})
    assert relative_error(graph, morph(graph, spaces, [learned]).graph) < 1e-13
    with pytest.raises(PassError, match=r"takes 'weight' of shape \(6, 6, 3, 3\), but what was learned has 'weight'"):
        morph(graph, spaces, [learned, NewChannel("0")])
    with pytest.raises(PassError, match="'_2' is no cut point of 'Sequential'; the cut points are _1, _4"):
        morph(graph, spaces, [InsertLayer("_2")])


def test_bad_input_is_told() -> None:
    graph = imported("layer scale")
    with pytest.raises(
        PassError, match=r"found no cut point that matches 'steem.2'; did you mean 'stem.2'\? Choose from"
    ):
        inserted(graph, "insert-layer{at=steem.2}")
    with pytest.raises(
        PassError, match="option 'block' of pass 'insert-layer' is 'dense'; choose one of layer, residual"
    ):
        gngraph.PassManager("insert-layer{block=dense}")
    with pytest.raises(
        PassError,
        match="a layer behind 'add', whose values may be negative, for its ReLU cuts them off; use block=residual",
    ):
        inserted(graph, "insert-layer{at=add,block=layer}")
    with pytest.raises(PassError, match="would take '3' cut points, but only '2' fit"):
        inserted(graph, "insert-layer{count=3}")
    with pytest.raises(PassError, match="'count' of pass 'insert-layer' is '0', but must be at least 1"):
        gngraph.PassManager("insert-layer{count=0}")
