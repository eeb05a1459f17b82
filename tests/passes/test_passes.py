"""The passes: what they choose, what they refuse, and that means are measured and kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import to_torch
from gngraph.passes import PassManager
from gngraph.passes.channel_choice import out_norms
from gngraph.rewrite.morphism import LayerMorphism, NewChannel, PruneChannel
from gngraph.running.problem import Problem
from tests.morphism_errors import difference, value_masked
from tests.small_networks import NETWORKS, build, imported


def plain() -> Graph:
    return imported("plain")


def chosen(graph: Graph, text: str) -> list[tuple[str, int]]:
    """(space, channel) of every split or prune that a pass does."""
    (result,) = PassManager(text).run(graph).results
    return [(m.space, m.channel) for m in result.morphisms if not isinstance(m, NewChannel | LayerMorphism)]


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "two outputs"])
def test_a_pipeline_of_all_passes_holds_on_every_kind_of_network(name: str) -> None:
    graph = imported(name)
    result = PassManager("split-channels{count=1},new-channels{count=2},prune-channels,cleanup").run(graph)
    assert all(run.error is not None and run.error <= 1e-10 for run in result.runs)
    sizes = {space.name: space.size for space in ChannelSpaces.of(graph).free}
    assert {s.name: s.size for s in ChannelSpaces.of(result.graph).free} == {n: s + 2 for n, s in sizes.items()}
    module = to_torch(result.graph)
    with torch.no_grad():
        for training in (False, True):
            module.train(training)(*(x.float() for x in probe_of(graph)))


def test_out_norms_count_every_reader_and_every_entry_once() -> None:
    graph = imported("squeeze-excite")
    space = ChannelSpaces.of(graph)["stem.0"]
    readers = [graph.params[name].data.double() for name in ("down.weight", "last.0.weight")]
    expected = sum(w.square().sum((0, 2, 3)) for w in readers)
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(out_norms(graph, space), expected.sqrt())


def test_splits_take_the_largest_and_prunes_the_smallest_out_weights() -> None:
    graph = plain()
    order = graph.params["2.weight"].data.square().sum((0, 2, 3)).argsort().tolist()
    assert chosen(graph, "split-channels{count=2,space=0}") == [("0", c) for c in sorted(order[-2:])]
    assert chosen(graph, "prune-channels{count=2,space=0}") == [("0", c) for c in sorted(order[:2])]
    assert chosen(graph, "prune-channels{channels=4;1,space=0}") == [("0", 4), ("0", 1)]
    assert chosen(graph, "split-channels{space=0}") == [("0", c) for c in range(5)]


def test_split_twins_are_equal_and_new_channels_are_repeatable() -> None:
    graph = plain()
    wide = PassManager("split-channels{channels=1,space=0}").run(graph).graph.params["0.weight"].data
    assert torch.equal(wide[1], wide[5])
    first, again, other = (
        PassManager(f"new-channels{{seed={seed},space=0}}").run(graph).graph.params["0.weight"].data
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["split-channels", "new-channels", "prune-channels"])
def test_what_matches_nothing_or_only_frozen_spaces_is_refused(name: str) -> None:
    graph = plain()
    with pytest.raises(PassError, match=rf"'{name}' found no channel space that matches 'layer\*'; choose from 0, 2"):
        PassManager(f"{name}{{space=layer*}}").run(graph)
    with pytest.raises(PassError, match=r"they are frozen: '6' because it is the network's output \(node '6'\)"):
        PassManager(f"{name}{{space=6}}").run(graph)
    assert PassManager(f"{name}{{space=?}}").run(graph).changed  # the frozen one among others is left out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("split-channels{count=6,space=0}", "would take '6' channels of space '0', which allows '5' of its '5'"),
        ("prune-channels{count=5,space=0}", "would take '5' channels of space '0', which allows '4' of its '5'"),
        ("split-channels{channels=5,space=0}", "'0' has 5 channels and no channel 5"),
        ("prune-channels{channels=-1,space=0}", "no channel -1"),
        ("prune-channels{channels=1;1,space=0}", "channel 1 of space '0' is named by two morphisms"),
    ],
)
def test_counts_and_channels_that_do_not_exist_are_refused(text: str, words: str) -> None:
    with pytest.raises(PassError) as caught:
        PassManager(text).run(plain())
    assert words in str(caught.value)


def problem() -> Problem:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(90, 3, 8, 8, generator=generator) + 1.0
    return Problem((x, torch.arange(90) % 3), learn=30, judge=30, report=30, device="cpu")


@pytest.mark.parametrize(("space", "reader", "inner"), [("0", "2", 1), ("2", "6", 16)])
def test_a_prune_keeps_the_mean_that_its_readers_saw_on_the_learn_split(space: str, reader: str, inner: int) -> None:
    module, _ = build("plain")
    graph, own = from_torch(module, torch.zeros(2, 3, 8, 8)), problem()
    (result,) = PassManager(f"prune-channels{{channels=2,space={space}}}", AnalysisManager(own)).run(graph).results
    (prune,) = result.morphisms
    assert isinstance(prune, PruneChannel)
    x = torch.stack([own.splits.learn[i][0] for i in range(30)])
    with torch.no_grad():
        read = module[: int(reader)](x).flatten(2).mean((0, 2)) if space == "0" else module[:6](x).mean(0)  # type: ignore[index]
    ((node, mean),) = prune.means.items()
    assert graph.nodes[node].module == reader
    torch.testing.assert_close(mean.float(), read[2 * inner : 3 * inner])
    expected = value_masked(graph, ChannelSpaces.of(graph), space, 2, prune.means)
    assert difference(expected, outputs64(result.graph, probe_of(graph))) < 1e-6  # biases are float32
    lost = PassManager(f"prune-channels{{channels=2,space={space}}}").run(graph).graph
    assert relative_error(lost, result.graph) > 1e-3


@pytest.mark.parametrize(
    "name", ["dense", "depthwise", "squeeze-excite", "token mlp", "tied weights", "batch norm after flatten"]
)
def test_prunes_with_means_equal_the_masked_network_too(name: str) -> None:
    module, example = build(name)
    graph = from_torch(module, example)
    own = Problem((torch.randn(60, *example.shape[1:]), torch.zeros(60)), learn=20, judge=20, report=20, device="cpu")
    (run,) = PassManager("prune-channels", AnalysisManager(own)).run(graph).runs
    assert run.error is not None and run.error <= 1e-10
    assert any(isinstance(m, PruneChannel) and m.means for m in run.result.morphisms)


class WithIdentities(nn.Module):
    """Identities in a row, and at the output too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Identity(), nn.Identity(), nn.Linear(4, 2)
        self.end = nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.c(self.b(self.a(x)))
        return self.end(self.d(torch.relu(x))), x


def test_cleanup_drops_identities_and_keeps_keys_and_outputs() -> None:
    net = WithIdentities()
    graph = from_torch(net, torch.randn(2, 3))
    (run,) = PassManager("cleanup").run(graph).runs
    assert [node.op for node in run.result.graph.nodes.values()] == ["input", "linear", "relu", "linear"]
    assert run.error == 0.0 and run.changed
    module = to_torch(run.result.graph)
    assert list(module.state_dict()) == list(net.state_dict())
    assert PassManager("cleanup").run(run.result.graph).graph is run.result.graph
