"""Heads, and the streams that attention reads and writes, come and go exactly."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.deploy.to_onnx import export_onnx
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.source.export import to_source
from tests.head_networks import BY_HAND, MODULES, WINDOWS, built
from tests.local_errors import relative
from tests.training_steps import Trial

BAR = 1e-12
CASES = {**MODULES, **BY_HAND, "torchvision's Swin": WINDOWS["torchvision's Swin"]}


@cache
def prepared(name: str) -> tuple[Graph, ChannelSpaces, tuple[Tensor, ...]]:
    """A float64 graph, its spaces and samples."""
    network, inputs = built(CASES[name])
    graph = from_torch(network, inputs).to(torch.float64)
    return graph, ChannelSpaces.of(graph), tuple(x.double() if x.is_floating_point() else x for x in inputs)


@pytest.mark.parametrize("name", CASES)
def test_every_space_changes_exactly(name: str) -> None:
    graph, spaces, x = prepared(name)
    before = outputs64(graph, x)
    for space in spaces.free:
        last = SplitChannel(space.name, space.size - 1)
        grown: list[list[Morphism]] = [[NewChannel(space.name)] * 2, [last], [NewChannel(space.name), last]]
        for morphisms in grown:
            new = morph(graph, spaces, morphisms).graph
            again = ChannelSpaces.of(new)
            assert again[space.name].frozen is None and again[space.name].size == space.size + len(morphisms)
            assert list(to_torch(new).state_dict()) == list(to_torch(graph).state_dict())
            assert relative(outputs64(new, x), before) <= BAR, (space.name, morphisms)
        if space.size > 1:
            prune = [PruneChannel(space.name, 0)]
            fewer = outputs64(morph(graph, spaces, prune).graph, x)
            assert relative(fewer, outputs64(masked(graph, spaces, prune), x)) <= BAR, space.name
            assert "linear1" in space.name or relative(fewer, before) > 1e-4, "nothing happens, so nothing is proved"
    both = [NewChannel(space.name) for space in spaces.free] + [SplitChannel(space.name, 0) for space in spaces.free]
    new = morph(graph, spaces, both).graph
    assert relative(outputs64(new, x), before) <= BAR
    again = ChannelSpaces.of(new)
    narrow = morph(new, again, [PruneChannel(space.name, space.size - 1) for space in again.free]).graph
    assert [space.size for space in ChannelSpaces.of(narrow).free] == [space.size + 1 for space in spaces.free]


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_looked_into(name: str) -> None:
    network, (x,) = built(WINDOWS[name])
    graph = from_torch(network, x)
    spaces = ChannelSpaces.of(graph)
    heads = [space for space in spaces.free if space.size == WINDOWS[name].heads]
    assert len(heads) == 2 and spaces["features.0.0"].frozen is None
    assert share_in_free_spaces(graph, spaces) > 0.97
    assert not list(Trial([[x], [torch.randn(3, *x.shape[1:])]]).differences(network, to_torch(graph)))


def test_heads_and_their_stream_are_no_longer_of_one_width(tmp_path: Path) -> None:
    """What is grown unlike torch's module is lowered, read again, written as source, kept and exported."""
    network, (x,) = built(MODULES["torchvision's ViT"])
    graph = from_torch(network, x)
    spaces = ChannelSpaces.of(graph)
    heads = "encoder.layers.encoder_layer_0.self_attention"
    new = morph(graph, spaces, [NewChannel("conv_proj")] * 3 + [SplitChannel(heads, 1)]).graph
    module = to_torch(new)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert shapes[f"{heads}.in_proj_weight"] == (36, 11) and shapes[f"{heads}.out_proj.weight"] == (11, 12)
    again = from_torch(module, x)
    assert torch.equal(to_torch(again)(x), module(x))
    assert {s.name: s.size for s in ChannelSpaces.of(again).free} == {
        s.name: s.size for s in ChannelSpaces.of(new).free
    }
    assert "F.scaled_dot_product_attention" in to_source(new)
    save(new, tmp_path / "net.gng")
    assert torch.equal(to_torch(load(tmp_path / "net.gng"))(x), module(x))
    report = export_onnx(new, tmp_path / "net.onnx", samples=x)
    assert report.parity.max_abs_difference <= 1e-4 * report.parity.max_abs_output


@pytest.mark.parametrize("name", BY_HAND)
def test_a_width_that_is_read_off_the_stream_does_not_tie_the_heads_to_it(name: str) -> None:
    graph, spaces, x = prepared(name)
    assert {s.name: s.size for s in spaces.free} == {"stem": 8, "qkv": 2}
    # of several queries, two of four heads; their only key and value are read by all
    assert share_free_both_ways(graph, spaces) == pytest.approx(2 / 3 if name == "multi_query" else 1)
    grown: list[list[Morphism]] = [
        [NewChannel("stem")],
        [NewChannel("qkv")],
        [SplitChannel("stem", 1), NewChannel("qkv")],
    ]
    for morphisms in grown:
        new = morph(graph, spaces, morphisms).graph
        kept = [node for node in new.nodes.values() if node.op == "size_arithmetic" and not new.users(node.name)]
        assert not kept, "what nothing reads goes"
        module = to_torch(new)
        again = ChannelSpaces.of(from_torch(module, x))
        assert {s.name: s.size for s in again.free} == {s.name: s.size for s in ChannelSpaces.of(new).free}
