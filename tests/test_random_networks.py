"""Random networks under random morphisms: a small sample of what `tools/check_random.py` checks by the thousand.

What it has found stands below as a test of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from gngraph.ops.rules import all_axes
from gngraph.ops.table import _TABLE
from gngraph.rewrite.channel_map import ChannelMap
from gngraph.rewrite.folding import fold_target
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import InsertLayer, NewChannel
from gngraph.source.export import to_source
from tests.morphism_errors import applied
from tests.random_blocks import Block, raw
from tests.random_checks import PairError, check_pair, pair_of
from tests.random_networks import build

NUMBERS = st.integers(0, 2**31 - 1)


@settings(max_examples=20)
@given(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=5), st.lists(NUMBERS, min_size=1, max_size=3))
def test_every_rewrite_is_exact_and_survives_every_round_trip(ends: int, blocks: list[int], steps: list[int]) -> None:
    check_pair([ends, *blocks], steps)


def test_a_pair_depends_on_its_number_alone() -> None:
    network, steps = pair_of(11)
    assert (network, steps) == pair_of(11)
    first, again = build(network), build(network)
    assert str(first.network) == str(again.network)
    assert all(torch.equal(a, b) for a, b in zip(first.samples, again.samples, strict=True))
    own, other = first.network.state_dict(), again.network.state_dict()
    assert list(own) == list(other) and all(torch.equal(own[key], other[key]) for key in own)


def fails_within(pairs: int) -> bool:
    """Whether one of the first pairs fails."""
    for number in range(pairs):
        try:
            check_pair(*pair_of(number))
        except PairError:
            return True
    return False


def test_a_wrong_channel_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_TABLE, "layer_norm", replace(_TABLE["layer_norm"], channels=all_axes))
    assert fails_within(60)


def test_wrong_surgery_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def split_without_halving(self: ChannelMap, channels: Iterable[int]) -> ChannelMap:
        copies = [self.source[channel] for channel in channels]
        return ChannelMap(self.size, (*self.source, *copies), (*self.weight, *(1.0 for _ in copies)))

    monkeypatch.setattr(ChannelMap, "split", split_without_halving)
    assert fails_within(20)


def spaces_of(network: nn.Module, *inputs: torch.Tensor) -> ChannelSpaces:
    return ChannelSpaces.of(from_torch(network, inputs))


def test_a_layer_tied_to_an_embedding_keeps_its_words() -> None:
    """Pruning an output of the layer would remove a word from the table."""
    table, up = nn.Embedding(7, 5), nn.Linear(5, 7)
    up.weight = table.weight
    spaces = spaces_of(nn.Sequential(table, up, nn.ReLU(), nn.Linear(7, 3)), torch.randint(7, (2, 4)))
    assert spaces["1"].frozen is not None and "(node '1')" in spaces["1"].frozen


def test_a_layer_tied_to_attention_keeps_its_width() -> None:
    attention, layer = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 6)
    layer.weight = attention.out_proj.weight
    network = Block(
        lambda m, x: m.out(torch.relu(m.layer(x + m.attention(x, x, x, need_weights=False)[0]))),
        attention=attention, layer=layer, out=nn.Linear(6, 2),
    )  # fmt: skip
    spaces = spaces_of(nn.Sequential(network), torch.randn(2, 4, 6))
    assert not spaces.free and "value of fixed size (node 'add')" in str(spaces["0.attention"].frozen)


def one_head() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        q, k, v = m.qkv(x).chunk(3, -1)
        q, k, v = (part.view(-1, 4, 1, 1).transpose(1, 2) for part in (q, k, v))
        return m.out((torch.softmax(q @ k.transpose(-2, -1), -1) @ v).transpose(1, 2).flatten(2))

    return Block(run, qkv=nn.Linear(5, 3), out=nn.Linear(1, 2))


def tokens_mixed() -> nn.Module:
    return Block(
        lambda m, x: m.out(m.mix(m.embed(x).transpose(1, 2)).transpose(1, 2)),
        embed=nn.Linear(5, 6), mix=nn.Linear(4, 7), out=nn.Linear(6, 2),
    )  # fmt: skip


@pytest.mark.parametrize("make", [one_head, tokens_mixed])
def test_flops_follow_the_axes_that_a_product_runs_over(make: Callable[[], nn.Module]) -> None:
    """An axis of length 1 may grow, and so may one that a weight is applied along."""
    graph = from_torch(nn.Sequential(make()), torch.randn(2, 4, 5))
    spaces = ChannelSpaces.of(graph)
    assert spaces.free
    for space in spaces.free:
        grown = applied(graph, spaces, [NewChannel(space.name)])
        widths = {s.name: s.size + (s.name == space.name) for s in spaces}
        assert CostModel(graph, spaces).of(widths) == cost(grown)


def test_functions_that_work_in_place_are_lowered() -> None:
    block = Block(lambda m, x: m.out(F.relu_(m.layer(x))), layer=nn.Linear(5, 6), out=nn.Linear(6, 2))
    network, x = nn.Sequential(block), torch.randn(2, 5)
    graph = from_torch(network, x)
    assert "relu" in {node.op for node in graph.nodes.values()}
    assert torch.equal(to_torch(graph)(x), network(x))


def test_arguments_behind_one_that_is_left_out_are_written_by_name() -> None:
    network = Block(
        lambda m, x: m.bounded(F.instance_norm(m.layer(x), weight=m.weight, bias=m.bias)),
        layer=nn.Conv2d(3, 4, 3), weight=raw(4), bias=raw(4), bounded=nn.Hardtanh(-2.0, 2.0),
    )  # fmt: skip
    text = to_source(from_torch(nn.Sequential(network), torch.randn(2, 3, 8, 8)))
    assert "F.instance_norm(self.layer(x), weight=self.weight, bias=self.bias)" in text
    assert "nn.Hardtanh(min_val=-2.0, max_val=2.0)" in text


def test_an_attribute_that_is_read_in_the_call_of_a_leaf_belongs_to_no_leaf() -> None:
    """A layer inserted there would become a part of the pool."""
    largest = Block(lambda m, x: m.layer(x).topk(2, -1).values, layer=nn.Conv2d(3, 4, 3))
    graph = from_torch(
        nn.Sequential(largest, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), torch.randn(2, 3, 6, 6)
    )
    leaves = {node.module for node in graph.nodes.values()}
    assert not leaves.intersection(node.scope for node in graph.nodes.values())


def test_inserted_parameters_stand_before_constants() -> None:
    layers = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    network = Block(lambda m, x: m.layers(x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])), layers=layers)
    x = torch.randn(2, 5)
    graph = from_torch(nn.Sequential(network), x)
    deeper = morph(graph, ChannelSpaces.of(graph), [InsertLayer("_0_layers_1")]).graph
    assert list(from_torch(to_torch(deeper), x).params) == list(deeper.params)


def test_a_network_may_work_in_place_on_its_input() -> None:
    network = nn.Sequential(nn.ELU(inplace=True), nn.Linear(5, 2))
    x = torch.randn(2, 5)
    graph = from_torch(network, x)
    kept = x.clone()
    assert torch.equal(to_torch(graph)(x), network(kept)) and not torch.equal(x, kept)


def test_a_batch_norm_over_tokens_keeps_no_mean_of_channels() -> None:
    """As many tokens as channels: the mean of a channel would have been kept as that of a token."""
    layers = nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
    )
    assert fold_target(from_torch(layers, torch.randn(2, 4, 5)), "_2") is None
    assert fold_target(from_torch(layers, torch.randn(2, 5)), "_2") == ("3.running_mean", -1.0)


def test_a_weight_that_is_held_may_be_read_in_further_ways() -> None:
    attention, layer = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 6)
    layer.weight = attention.out_proj.weight
    network = Block(
        lambda m, x: torch.relu(m.layer(x + m.attention(x, x, x, need_weights=False)[0])) @ m.layer.weight,
        attention=attention, layer=layer,
    )  # fmt: skip
    spaces = spaces_of(nn.Sequential(network), torch.randn(2, 4, 6))
    assert not spaces.free
