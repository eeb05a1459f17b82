"""`merge-channels`: what it chooses, that it keeps its promise on every kind of network, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import FunctionChangedError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.passes import MergeChannels, PassManager
from gngraph.rewrite.graph_pass import PassResult
from gngraph.rewrite.morphism import MergeChannel
from gngraph.running.problem import Problem
from tests.small_networks import NETWORKS, build


def setting(name: str) -> tuple[Graph, AnalysisManager]:
    """A small network, and random inputs with its own outputs as targets."""
    module, example = build(name)
    x = torch.randn(180, *example.shape[1:], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = module(x)
    problem = Problem((x, y), loss="mse", learn=60, judge=60, report=60, device="cpu", batch_size=20)
    return from_torch(module, example), AnalysisManager(problem)


# the norm of a token MLP counts one of two twins, and does without it
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("two outputs", "token mlp")])
def test_twins_merge_back_without_loss_where_a_prune_loses_one(name: str) -> None:
    graph, analyses = setting(name)
    wide = PassManager("split-channels{channels=0}").run(graph).graph
    (merge,) = PassManager("merge-channels{channels=0}", analyses).run(wide).runs
    assert merge.error is not None and merge.error <= 1e-10  # against the masked network
    sizes = {space.name: space.size for space in ChannelSpaces.of(graph).free}
    assert {s.name: s.size for s in ChannelSpaces.of(merge.result.graph).free} == sizes
    assert relative_error(wide, merge.result.graph) < 1e-3
    assert relative_error(wide, PassManager("prune-channels{channels=0}", analyses).run(wide).graph) > 1e-2


def test_several_named_channels() -> None:
    graph, analyses = setting("plain")
    (result,) = PassManager("merge-channels{channels=4;1,space=0}", analyses).run(graph).results
    assert [(m.space, m.channel, m.sources) for m in result.morphisms if isinstance(m, MergeChannel)] == [
        ("0", 4, (0, 2, 3)),
        ("0", 1, (0, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge-channels{count=5,space=0}", "would take '5' channels of space '0', which allows '4' of its '5'"),
        ("merge-channels{channels=5,space=0}", "'0' has 5 channels and no channel 5"),
        ("merge-channels{channels=1;1,space=0}", "channel 1 of space '0' is named by two morphisms"),
        ("merge-channels{space=6}", "they are frozen: '6' because it is the network's output"),
        ("merge-channels{count=0}", "is '0', but must be at least 1"),
    ],
)
def test_bad_options_are_refused(text: str, words: str) -> None:
    graph, analyses = setting("plain")
    with pytest.raises(PassError) as caught:
        PassManager(text, analyses).run(graph)
    assert words in str(caught.value)


def test_without_data_it_says_what_it_needs() -> None:
    with pytest.raises(PassError, match=r"'merge-channels' learns from data .* no data was given.* 'prune-channels'"):
        PassManager("merge-channels{count=1}").run(setting("plain")[0])


@dataclass(frozen=True)
class MergeWithOtherWeights(MergeChannels):
    """Reports other weights than those it applied."""

    name: ClassVar[str] = "merge-with-other-weights"

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        result = super().run(graph, analyses)
        (m,) = result.morphisms
        assert isinstance(m, MergeChannel)
        wrong = MergeChannel(m.space, m.channel, {param: b + 1e-4 for param, b in m.weights.items()}, m.means)
        return PassResult(result.graph, (wrong,), result.gathers)


def test_a_pass_that_merges_otherwise_than_it_says_is_refused() -> None:
    graph, analyses = setting("plain")
    with pytest.raises(FunctionChangedError, match="those of the masked network"):
        PassManager([MergeWithOtherWeights(space="0")], analyses).run(graph)
