"""Merges: every reader finds a combination of other channels in a channel's place, by two independent routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import fx, nn

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.errors import FrozenSpaceError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import MergeChannel, Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import carry, rewrite
from gngraph.scoring.sites import read_sites
from tests.morphism_errors import applied, difference
from tests.small_networks import NETWORKS, imported

MERGEABLE = [name for name in NETWORKS if name != "two outputs"]  # whose only space is an output's


def prepared(name: str) -> tuple[Graph, ChannelSpaces]:
    """A float64 graph of a small network and its spaces."""
    graph = imported(name).to(torch.float64)
    return graph, ChannelSpaces.of(graph)


def random_weights(spaces: ChannelSpaces, space: str, without: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """Weights of a merge for every reader, different in each slot."""
    slots = [slot.param for slot in spaces[space].slots if slot.role is Role.CONSUME]
    weights = {param: torch.randn(slots.count(param), spaces[space].size, dtype=torch.float64) for param in slots}
    for b in weights.values():
        b[:, list(without)] = 0.0
    return weights


class ValueMerge(fx.Interpreter):
    """Runs a graph in which each reader finds the combination in the channel's place; no weight is touched."""

    def __init__(self, graph: Graph, spaces: ChannelSpaces, merge: MergeChannel) -> None:
        lowered = lower(graph)
        super().__init__(lowered.module)
        self.merge = merge
        self.patches: dict[fx.Node, list[tuple[fx.Node, Any, torch.Tensor, torch.Tensor]]] = {}
        order: dict[str, list[int]] = {}
        for site in read_sites(graph, spaces):
            if site.space == merge.space:
                offsets = order.setdefault(site.slot.param, [])
                if site.slot.offset not in offsets:
                    offsets.append(site.slot.offset)
                row = offsets.index(site.slot.offset)
                b = merge.weights[site.slot.param][row]
                inner = site.slot.inner
                m = merge.means.get(site.edge.reader, torch.zeros(inner * (row + 1)).double())
                for step in lowered.steps[site.edge.reader]:
                    for band in site.bands:
                        m_row = m.narrow(0, row * inner, inner)
                        source = lowered.values[site.edge.value]
                        self.patches.setdefault(step, []).append((source, band, b, m_row))

    def run_node(self, n: fx.Node) -> Any:
        originals = dict(self.env)
        for source, band, b, m in self.patches.get(n, ()):
            value = self.env[source].movedim(band.axis, 0).clone()
            part = value.narrow(0, band.start, band.size * band.inner).unflatten(0, (band.size, band.inner))
            others = b.clone()
            others[self.merge.channel] = 0.0
            constant = m.view(-1, *[1] * (part.dim() - 2))
            part[self.merge.channel] = torch.einsum("c,c...->...", others, part) + constant
            self.env[source] = value.movedim(0, band.axis)
        result = super().run_node(n)
        self.env.update({key: originals[key] for key, *_ in self.patches.get(n, ())})
        return result


def value_merged(graph: Graph, spaces: ChannelSpaces, merge: MergeChannel) -> list[torch.Tensor]:
    """Outputs when readers find the combination in a channel's place."""
    with torch.no_grad():
        result = ValueMerge(graph, spaces, merge).run(*probe_of(graph))
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", MERGEABLE)
def test_a_merge_is_what_a_reader_of_the_combination_computes(name: str) -> None:
    graph, spaces = prepared(name)
    # statistics that count the channels do without it, wherever its readers find the combination
    mergeable = [space for space in spaces.free if space.size > 1 and space.name not in spaces.counters]
    assert mergeable
    for space in mergeable:
        merge = MergeChannel(space.name, space.size // 2, random_weights(spaces, space.name))
        expected = value_merged(graph, spaces, merge)
        merged = applied(graph, spaces, [merge])
        assert ChannelSpaces.of(merged)[space.name].size == space.size - 1
        assert difference(expected, outputs64(merged, probe_of(graph))) <= 1e-12
        assert difference(expected, outputs64(masked(graph, spaces, [merge]), probe_of(graph))) <= 1e-12
        assert relative_error(applied(graph, spaces, [PruneChannel(space.name, merge.channel)]), merged) > 1e-6


@pytest.mark.parametrize("space", ["0", "2"])
def test_constants_are_kept_as_a_prune_keeps_its_means(space: str) -> None:
    """Into a running mean (space 0, its reader has no bias) and into a bias (space 2, 16 entries a channel)."""
    graph, spaces = prepared("plain")
    (reader,) = spaces[space].nodes(Role.CONSUME)
    means = {reader: torch.randn(16 if space == "2" else 1, dtype=torch.float64)}
    merge = MergeChannel(space, 3, random_weights(spaces, space), means)
    expected = value_merged(graph, spaces, merge)
    assert difference(expected, outputs64(applied(graph, spaces, [merge]), probe_of(graph))) <= 1e-12


@pytest.mark.parametrize("name", MERGEABLE)
def test_merges_of_all_spaces_among_other_morphisms_equal_the_masked_network(name: str) -> None:
    graph, spaces = prepared(name)
    merges: list[Morphism] = []
    others: list[Morphism] = []
    for space in spaces.free:
        if space.size > 1:
            means = {node: torch.randn(64, dtype=torch.float64) for node in space.nodes(Role.CONSUME)}
            merges.append(MergeChannel(space.name, 1, random_weights(spaces, space.name), means))
            others += [SplitChannel(space.name, 0), NewChannel(space.name)]
    reference = masked(graph, spaces, merges)
    assert relative_error(reference, applied(graph, spaces, merges)) <= 1e-12
    assert relative_error(reference, applied(graph, spaces, others + merges)) <= 1e-12


def test_a_copy_of_a_channel_merges_exactly_where_a_prune_loses_it() -> None:
    """Also one that is twice another plus a third, behind a linear layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not name.startswith("3"):
                parameter[1] = parameter[[3] if name.startswith("0") else [2, 2, 3]].sum(0)
    graph = from_torch(net, torch.zeros(2, 3, dtype=torch.float64))
    spaces = ChannelSpaces.of(graph)
    for space, param, b in (("0", "2.weight", [0.0, 9.0, 0.0, 1.0, 0.0]), ("2", "3.weight", [0.0, 9.0, 2.0, 1.0])):
        merge = MergeChannel(space, 1, {param: torch.tensor([b])})
        assert merge.sources == tuple(c for c, weight in enumerate(b) if weight and c != 1)
        assert relative_error(graph, applied(graph, spaces, [merge])) <= 1e-12
        assert relative_error(graph, applied(graph, spaces, [PruneChannel(space, 1)])) > 1e-2


def test_several_channels_of_a_space_merge_into_the_rest() -> None:
    graph, spaces = prepared("residual")
    space = spaces["stem.0"]
    gone = [0, 2, 5]
    merges = [MergeChannel(space.name, c, random_weights(spaces, space.name, gone)) for c in gone]
    merged = applied(graph, spaces, merges)
    assert ChannelSpaces.of(merged)[space.name].size == 3
    assert relative_error(masked(graph, spaces, merges), merged) <= 1e-12
    one_by_one = graph
    for merge in reversed(merges):
        now = ChannelSpaces.of(one_by_one)
        kept = [c for c in range(space.size) if c not in gone or c <= merge.channel]
        weights = {param: b[:, kept] for param, b in merge.weights.items()}
        one_by_one = applied(one_by_one, now, [MergeChannel(space.name, merge.channel, weights)])
    assert relative_error(one_by_one, merged) <= 1e-12


def test_the_state_of_what_stays_is_carried() -> None:
    graph, spaces = prepared("plain")
    merge = MergeChannel("0", 1, random_weights(spaces, "0"))
    rewritten = rewrite(graph, spaces, edits_of(graph, spaces, [merge]))
    momentum = torch.randn(6, 5, 3, 3)
    assert torch.equal(carry(momentum, rewritten.gathers["2.weight"], 1), momentum[:, [0, 2, 3, 4]])


class OuterProduct(nn.Module):
    """A raw parameter that reads two spaces, along two of its axes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.w = nn.Linear(3, 4), nn.Linear(3, 5), nn.Parameter(torch.randn(2, 4, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.einsum("ni,nj->nij", torch.relu(self.a(x)), torch.tanh(self.b(x)))
        return torch.einsum("nij,kij->nk", pairs, self.w)


def test_merges_along_two_axes_of_one_weight() -> None:
    torch.manual_seed(0)
    graph = from_torch(OuterProduct(), torch.zeros(2, 3)).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    merges = [MergeChannel(space.name, 1, random_weights(spaces, space.name)) for space in spaces.free]
    assert [merge.space for merge in merges] == ["a", "b"]
    one_by_one = graph
    for merge in merges:
        expected = value_merged(one_by_one, ChannelSpaces.of(one_by_one), merge)
        one_by_one = applied(one_by_one, ChannelSpaces.of(one_by_one), [merge])
        assert difference(expected, outputs64(one_by_one, probe_of(graph))) <= 1e-12
    for at_once in (applied(graph, spaces, merges), masked(graph, spaces, merges)):
        assert relative_error(one_by_one, at_once) <= 1e-12


B = {"2.weight": torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])}


@pytest.mark.parametrize(
    ("morphisms", "error", "words"),
    [
        ([MergeChannel("0", 5, B)], PassError, "has 5 channels and no channel 5"),
        (
            [MergeChannel("0", 1, B), PruneChannel("0", 1)],
            PassError,
            "channel 1 of space '0' is named by two morphisms",
        ),
        (
            [MergeChannel("0", 1, B), PruneChannel("0", 2)],
            PassError,
            "channel 1 .* rebuilt from channel 2, which is rem",
        ),
        (
            [MergeChannel("0", 1, B), MergeChannel("0", 2)],
            PassError,
            "rebuilt from channel 2, which is removed as well",
        ),
        (
            [MergeChannel("0", 1, {"2.weight": torch.ones(1, 4)})],
            PassError,
            r"shape '\(1, 4\)' for parameter '2.weight'",
        ),
        ([MergeChannel("0", 1, {"2.weight": torch.ones(5)})], PassError, r"shape '\(5,\)' for parameter '2.weight'"),
        (
            [MergeChannel("0", 1, {"6.weight": torch.ones(1, 5)})],
            PassError,
            "'6.weight', which reads the space in 0 slots",
        ),
        ([MergeChannel("0", c) for c in range(5)], PassError, "all 5 channels"),
        ([MergeChannel("6", 0)], FrozenSpaceError, "'6' is frozen: it is the network's output"),
    ],
)
def test_refusals(morphisms: list[Morphism], error: type[Exception], words: str) -> None:
    graph, spaces = prepared("plain")
    with pytest.raises(error, match=words):
        edits_of(graph, spaces, morphisms)
