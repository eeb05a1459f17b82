"""Channels of streams that norms count come and go, exactly."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from gngraph import PassManager
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import MergeChannel, Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.rewrite.surgery import carry
from tests.local_errors import relative
from tests.stream_networks import NETWORKS, PLAIN, ViT, built

BAR = 1e-12


@cache
def prepared(name: str) -> tuple[Graph, ChannelSpaces, str, tuple[Tensor, ...]]:
    """A float64 graph, its spaces, its stream and samples."""
    network, x = built(name)
    graph = from_torch(network, x).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    return graph, spaces, next(iter(spaces.counters)), (x.double() if x.is_floating_point() else x,)


def error(graph: Graph, other: Graph, x: tuple[Tensor, ...]) -> float:
    return relative(outputs64(other, x), outputs64(graph, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_of_a_stream_come_and_go_exactly(name: str) -> None:
    graph, spaces, stream, x = prepared(name)
    before = outputs64(graph, x)
    grown: list[list[Morphism]] = [
        [NewChannel(stream)],
        [NewChannel(stream)] * 3,
        [SplitChannel(stream, 1)],
        [SplitChannel(stream, 0), NewChannel(stream), SplitChannel(stream, 2)],
        [NewChannel(space.name) for space in spaces.free],
    ]
    for morphisms in grown:
        new = morph(graph, spaces, morphisms).graph
        assert relative(outputs64(new, x), before) <= BAR
        again = ChannelSpaces.of(new)
        if name != "merged":  # where a norm counts four stretches, what it does not count becomes a space of its own
            assert again[stream].size == spaces[stream].size + sum(m.space == stream for m in morphisms)
        if len(morphisms) < 3:
            continue  # what comes later is tried behind the others
        for later in ([NewChannel(stream)] * 2, [SplitChannel(stream, 1)]):
            assert relative(outputs64(morph(new, again, later).graph, x), before) <= BAR
        fewer = [PruneChannel(stream, 0), PruneChannel(stream, again[stream].size - 1)]
        assert error(masked(new, again, fewer), morph(new, again, fewer).graph, x) <= BAR
    reads = {slot.param: 0 for slot in spaces[stream].slots if slot.role.value == "consume"}
    for param in reads:
        reads[param] = sum((s.param, s.role.value) == (param, "consume") for s in spaces[stream].slots)
    b = {param: torch.randn(count, spaces[stream].size, dtype=torch.float64) for param, count in reads.items()}
    shrunk: list[list[Morphism]] = [
        [PruneChannel(stream, 1)],
        [PruneChannel(stream, 0), PruneChannel(stream, 2), NewChannel(stream)],
        [MergeChannel(stream, 3, b)],
        [PruneChannel(space.name, 0) for space in spaces.free],
    ]
    for morphisms in shrunk:
        after = outputs64(morph(graph, spaces, morphisms).graph, x)
        assert relative(after, outputs64(masked(graph, spaces, morphisms), x)) <= BAR
        assert relative(after, before) > 1e-4, "nothing happens, so nothing is proved"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pass_adds_channels_to_a_stream_in_float32(name: str) -> None:
    """The scale of a norm that counts them has a rounding error there, which is no broken promise; others may have none."""
    network, x = built(name)
    graph, (_, spaces, stream, _) = from_torch(network, x), prepared(name)
    (run,) = PassManager(f"new-channels{{count=3,space={stream}}}").run(graph).runs
    assert run.error is not None and run.error < 1e-6
    others = [space.name for space in spaces.free if space.name not in spaces.counters]
    for run in PassManager(f"new-channels{{count=3,space={other}}}" for other in others).run(graph).runs:
        assert not run.result.rounded


def test_a_pruned_stream_is_a_narrower_network() -> None:
    """What is masked is what a network without the channel computes, written independently of all surgery."""
    torch.manual_seed(1)
    wide = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 4))
    narrow = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 4))
    kept = torch.tensor([0, 1, 3, 4, 5])
    with torch.no_grad():
        for (name, own), (_, other) in zip(wide.named_parameters(), narrow.named_parameters(), strict=True):
            own.copy_(torch.randn_like(own))
            other.copy_(own[:, kept] if name == "2.weight" else own if name == "2.bias" else own[kept])
    x = torch.randn(5, 3)
    graph = from_torch(wide, x)
    spaces = ChannelSpaces.of(graph)
    for made in (masked, lambda *args: morph(*args).graph):
        torch.testing.assert_close(to_torch(made(graph, spaces, [PruneChannel("0", 2)]))(x), narrow(x))


@pytest.mark.parametrize("name", PLAIN)
def test_norms_stay_norms_where_they_can(name: str) -> None:
    graph, spaces, stream, _ = prepared(name)
    new = morph(graph, spaces, [NewChannel(stream)] * 2).graph
    norms = [node for node in graph.nodes.values() if node.op in ("layer_norm", "rms_norm")]
    assert norms
    for norm in norms:
        other = new.nodes[norm.name]
        assert (other.op, other.module) == (norm.op, norm.module)
        n, m = PLAIN[name], PLAIN[name] + 2
        assert other.attrs["normalized_shape"] == (m,)
        assert norm.attrs["eps"] is None or other.attrs["eps"] == pytest.approx(norm.attrs["eps"] * n / m, rel=1e-12)
        old, scaled = graph.params[norm.params["weight"]].data, new.params[norm.params["weight"]].data
        torch.testing.assert_close(scaled[:n], old * (n / m) ** 0.5)
    assert list(to_torch(new).state_dict()) == list(to_torch(graph).state_dict())


def test_what_reads_a_new_channel_behind_a_norm_is_not_zero_so_that_it_can_learn() -> None:
    network, x = built("vit")
    graph = from_torch(network, x)
    spaces = ChannelSpaces.of(graph)
    new = morph(graph, spaces, [NewChannel("patch")] * 2).graph
    columns = new.params["blocks.0.up.weight"].data[:, 8:]
    assert bool((columns != 0).all()) and not torch.equal(columns[:, 0], columns[:, 1])
    module = to_torch(new).train()
    module(x).square().sum().backward()
    rows = dict(module.named_parameters())["blocks.0.down.weight"].grad
    assert rows is not None and bool((rows[8:] != 0).any()) and not torch.allclose(rows[8], rows[9])


def test_the_scale_of_a_norm_is_carried_with_its_optimiser_state() -> None:
    network, x = built("vit")
    graph = from_torch(network, x).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    rewritten = morph(graph, spaces, [NewChannel("patch")])
    slopes = []
    for one in (graph, rewritten.graph):
        module = to_torch(one)
        module(x.double()).square().sum().backward()
        slopes.append(dict(module.named_parameters())["norm.weight"].grad)
    before, after = slopes
    assert before is not None and after is not None
    carried = carry(before, rewritten.gathers["norm.weight"], 1)
    torch.testing.assert_close(carried[:8], after[:8])


def test_a_stream_with_rows_of_its_own_is_exact_too() -> None:
    graph, spaces, stream, x = prepared("vit")
    row = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    new = morph(graph, spaces, [NewChannel(stream, {"patch.weight": row})]).graph
    assert error(graph, new, x) <= BAR
    assert torch.equal(new.params["patch.weight"].data[8:], row)


def test_the_last_channel_that_is_counted_stays() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 4))
    graph = from_torch(network, torch.randn(2, 3))
    split = morph(graph, ChannelSpaces.of(graph), [SplitChannel("0", 0)]).graph
    with pytest.raises(PassError, match="would be left without a channel that it counts"):
        morph(split, ChannelSpaces.of(split), [PruneChannel("0", 0), PruneChannel("0", 1)])


def test_a_grown_stream_is_lowered_and_read_again() -> None:
    for post in (False, True):
        network = ViT(post=post).eval()
        x = torch.randn(2, 3, 8, 8)
        graph = from_torch(network, x)
        new = morph(graph, ChannelSpaces.of(graph), [NewChannel("patch"), SplitChannel("patch", 0)]).graph
        module = to_torch(new)
        again = from_torch(module, x)
        assert torch.equal(to_torch(again)(x), module(x))
        assert ChannelSpaces.of(again)["patch"].size == 10 and ChannelSpaces.of(again)["patch"].frozen is None
