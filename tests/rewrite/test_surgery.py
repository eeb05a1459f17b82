"""Weight surgery: many spaces at once, learned rows, folded means, what is shared, and the optimiser's state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.errors import FrozenSpaceError, IRError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.channel_map import ChannelMap
from gngraph.rewrite.folding import fold_target
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import SpaceEdit, carry, rewrite
from tests.morphism_errors import applied, difference, value_masked
from tests.small_networks import NETWORKS, imported


def prepared(name: str) -> tuple[Graph, ChannelSpaces]:
    """A float64 graph of a small network and its spaces."""
    graph = imported(name).to(torch.float64)
    return graph, ChannelSpaces.of(graph)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_spaces_at_once(name: str) -> None:
    graph, spaces = prepared(name)
    grown: list[Morphism] = []
    for space in spaces.free:
        grown += [SplitChannel(space.name, c) for c in range(0, space.size, 2)] + [NewChannel(space.name)] * 2
    assert relative_error(graph, applied(graph, spaces, grown)) <= 1e-12
    pruned: list[Morphism] = [PruneChannel(space.name, 1) for space in spaces.free]
    reference = masked(graph, spaces, pruned)
    assert relative_error(reference, applied(graph, spaces, pruned)) <= 1e-12
    both = [m for m in grown if not (isinstance(m, SplitChannel) and m.channel == 1)] + pruned
    assert relative_error(reference, applied(graph, spaces, both)) <= 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_repeated_rewrites_stay_exact(name: str) -> None:
    graph, spaces = prepared(name)
    current = graph
    for _ in range(3):
        for space in spaces.free:
            now = ChannelSpaces.of(current)
            current = applied(current, now, [SplitChannel(space.name, now[space.name].size - 1)])
    assert [s.size + 3 for s in spaces.free] == [s.size for s in ChannelSpaces.of(current).free]
    assert relative_error(graph, current) <= 1e-12


def test_the_base_is_untouched_and_what_is_not_edited_is_shared() -> None:
    graph, spaces = prepared("residual")
    before = {key: p.data.clone() for key, p in graph.params.items()}
    new = applied(graph, spaces, [SplitChannel("inner.0", 2)])
    assert all(torch.equal(graph.params[key].data, data) for key, data in before.items())
    changed = {key for key, p in new.params.items() if p.data is not graph.params[key].data}
    assert changed == {slot.param for slot in spaces["inner.0"].slots}


def test_a_split_with_learned_rows() -> None:
    graph, spaces = prepared("plain")
    d1, d2 = torch.randn(2, 1, 5, 3, 3, dtype=torch.float64)
    new = applied(graph, spaces, [SplitChannel("2", 4, "2.weight", d1, d2)])
    old_rows, rows = graph.params["2.weight"].data, new.params["2.weight"].data
    torch.testing.assert_close(rows[4], old_rows[4] + d1[0], rtol=0, atol=0)
    torch.testing.assert_close(rows[6], old_rows[4] + d2[0], rtol=0, atol=0)
    assert torch.equal(rows[:4], old_rows[:4])
    both = applied(graph, spaces, [SplitChannel("2", 4, "2.weight", d1, d2), PruneChannel("2", 0)])
    assert torch.equal(both.params["2.weight"].data, rows[1:])


def test_a_learned_split_and_its_neighbour_grow_together() -> None:
    graph, spaces = prepared("plain")
    d = torch.randn(1, 5, 3, 3, dtype=torch.float64)
    learned = SplitChannel("2", 1, "2.weight", d, -d)
    alone = applied(graph, spaces, [learned])
    together = applied(graph, spaces, [learned, SplitChannel("0", 3), NewChannel("0")])
    assert together.params["2.weight"].data.shape == (7, 7, 3, 3)
    assert relative_error(alone, together) <= 1e-12


def test_a_new_channel_starts_at_random_and_nothing_reads_it() -> None:
    graph, spaces = prepared("plain")

    def grown(seed: int) -> Graph:
        generator = torch.Generator().manual_seed(seed)
        return rewrite(graph, spaces, edits_of(graph, spaces, [NewChannel("2")]), generator).graph

    new = grown(5)
    row, own = new.params["2.weight"].data[6], graph.params["2.weight"].data
    assert row.any() and 0.3 < float(row.std() / own.std()) < 3.0
    starts = [float(new.params[f"3.{name}"].data[6]) for name in ("weight", "bias", "running_mean", "running_var")]
    assert starts == [1.0, 0.0, 0.0, 1.0]
    assert not new.params["6.weight"].data[:, 6 * 16 :].any()
    assert torch.equal(row, grown(5).params["2.weight"].data[6])
    assert not torch.equal(row, grown(6).params["2.weight"].data[6])


def test_a_new_channel_with_rows_of_its_own() -> None:
    graph, spaces = prepared("plain")
    rows = {
        "2.weight": torch.randn(1, 5, 3, 3, dtype=torch.float64),
        "3.bias": torch.tensor([0.7], dtype=torch.float64),
    }
    new = applied(graph, spaces, [NewChannel("2", rows)])
    assert torch.equal(new.params["2.weight"].data[6:], rows["2.weight"])
    assert float(new.params["3.bias"].data[6]) == 0.7
    assert relative_error(graph, new) <= 1e-12


def test_a_new_channel_with_out_weights_meets_growing_readers() -> None:
    """Copies of what the reader writes read the new channel alike; what is new there reads it with weights of its own."""
    graph, spaces = prepared("plain")
    own = graph.params["2.weight"].data
    u = own.std() * torch.randn(6, 1, 3, 3, dtype=torch.float64)
    new = NewChannel("0", out={"2.weight": u})
    alone = applied(graph, spaces, [new]).params["2.weight"].data
    assert torch.equal(alone, torch.cat([own, u], 1))
    d = torch.randn(2, 1, *own.shape[1:], dtype=torch.float64)
    split = SplitChannel("2", 4, "2.weight", *d)
    morphisms: list[Morphism] = [new, split, NewChannel("2"), PruneChannel("2", 0), PruneChannel("0", 1)]
    together = applied(graph, spaces, morphisms).params["2.weight"].data
    assert torch.equal(together[:-1, -1:], torch.cat([u[1:], u[4:5]]))
    assert 0.2 < float(together[-1, -1].std() / own.std()) < 5
    kept = [c for c in range(own.shape[1]) if c != 1]
    assert torch.equal(together[3, :-1], own[4, kept] + d[0, 0, kept])


@pytest.mark.parametrize("space", ["0", "2"])
def test_folded_means_equal_a_reader_that_finds_the_mean(space: str) -> None:
    """Into a running mean (space 0, its reader has no bias) and into a bias (space 2); exact, as nothing is padded."""
    graph, spaces = prepared("plain")
    (reader,) = spaces[space].nodes(Role.CONSUME)
    inner = 16 if space == "2" else 1
    means = {reader: torch.randn(inner, dtype=torch.float64)}
    prune = PruneChannel(space, 3, means)
    expected = value_masked(graph, spaces, space, 3, means)
    for route in (applied(graph, spaces, [prune]), masked(graph, spaces, [prune])):
        assert difference(expected, outputs64(route, probe_of(graph))) <= 1e-12
    assert relative_error(applied(graph, spaces, [PruneChannel(space, 3)]), applied(graph, spaces, [prune])) > 1e-3


def test_where_a_mean_can_be_kept() -> None:
    plain, shared = prepared("plain")[0], prepared("shared reader")[0]
    by_module = {node.module: node.name for node in plain.nodes.values()}
    assert fold_target(plain, by_module["2"]) == ("3.running_mean", -1.0)
    assert fold_target(plain, by_module["6"]) == ("6.bias", 1.0)
    twice = [node.name for node in shared.nodes.values() if node.module == "shared"]
    assert [fold_target(shared, name) for name in twice] == [None, None]


def test_a_bias_that_two_layers_share_takes_no_mean() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[3].bias = net[2].bias
    graph = from_torch(net, torch.zeros(2, 3))
    assert [fold_target(graph, node.name) for node in graph.nodes.values() if node.module in ("2", "3")] == [None, None]


def gradients(graph: Graph) -> dict[str, torch.Tensor]:
    """Gradient of a loss that weighs every output entry differently, by parameter, from autograd on the plain module."""
    module = to_torch(graph)
    leaves = torch.utils._pytree.tree_leaves(module(*probe_of(graph)))
    loss = sum((torch.sin(leaf) * torch.arange(leaf.numel()).view(leaf.shape)).sum() for leaf in leaves)
    assert isinstance(loss, torch.Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    return {key: p.grad for key, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("make", [SplitChannel, lambda space, channel: NewChannel(space)], ids=["split", "new"])
def test_carried_optimiser_state_is_what_the_grown_network_would_have_gathered(
    name: str, make: Callable[[str, int], Morphism]
) -> None:
    """Momentum is linear in gradients, Adam's second moment quadratic: both are compared with true gradients.

    What writes channels that a norm counts is left out: there are other channels then that share in its statistics.
    """
    graph, spaces = prepared(name)
    counted = {slot.param for name in spaces.counters for slot in spaces[name].slots if slot.role is not Role.CONSUME}
    counted |= {param for node in spaces.counters.values() for param in graph.nodes[node[0]].params.values()}
    morphisms = [make(space.name, channel) for space in spaces.free for channel in (0, space.size - 1)]
    rewritten = rewrite(graph, spaces, edits_of(graph, spaces, morphisms))
    before, after = gradients(graph), gradients(rewritten.graph)
    assert set(rewritten.gathers) <= set(rewritten.graph.params)
    for key, gradient in before.items():
        if key in counted or key.removesuffix("bias") + "weight" in counted:
            continue
        gathers = rewritten.gathers.get(key, ())
        known = torch.ones_like(after[key], dtype=torch.bool)
        for gather in gathers:  # entries that are new have no history
            known &= (gather.index >= 0).view([-1 if i == gather.axis else 1 for i in range(known.dim())])
        for power in (1, 2):
            carried, true = carry(gradient**power, gathers, power), after[key] ** power
            torch.testing.assert_close(carried[known], true[known], rtol=1e-9, atol=1e-11)
            assert not carried[~known].any()


def test_pruned_entries_of_the_state_go() -> None:
    graph, spaces = prepared("plain")
    rewritten = rewrite(graph, spaces, edits_of(graph, spaces, [PruneChannel("0", 1)]))
    momentum = torch.randn(6, 5, 3, 3)
    carried = carry(momentum, rewritten.gathers["2.weight"], 1)
    assert torch.equal(carried, momentum[:, [0, 2, 3, 4]])


@pytest.mark.parametrize(
    ("morphisms", "error", "words"),
    [
        ([SplitChannel("0", 5)], PassError, "has 5 channels and no channel 5"),
        ([PruneChannel("0", -1)], PassError, "no channel -1"),
        ([SplitChannel("0", 1), PruneChannel("0", 1)], PassError, "channel 1 of space '0' is named by two morphisms"),
        ([PruneChannel("0", c) for c in range(5)], PassError, "pruning all 5 channels"),
        ([SplitChannel("6", 0)], FrozenSpaceError, "'6' is frozen: it is the network's output"),
        ([SplitChannel("nowhere", 0)], IRError, "no channel space 'nowhere'"),
    ],
)
def test_refusals(morphisms: list[Morphism], error: type[Exception], words: str) -> None:
    graph, spaces = prepared("plain")
    with pytest.raises(error, match=words):
        edits_of(graph, spaces, morphisms)


def test_maps_that_do_not_fit_or_frozen_spaces_are_refused() -> None:
    graph, spaces = prepared("plain")
    with pytest.raises(IRError, match="has 5 channels, but its map is for 4"):
        rewrite(graph, spaces, {"0": SpaceEdit(ChannelMap.identity(4))})
    with pytest.raises(FrozenSpaceError, match="network's output"):
        rewrite(graph, spaces, {"6": SpaceEdit(ChannelMap.identity(3))})
