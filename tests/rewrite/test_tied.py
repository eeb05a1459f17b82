"""Tables that a layer reads again: words that are the network's head as well, whose stream comes and goes in both roles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import MergeChannel, NewChannel, PruneChannel, SplitChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from tests.morphism_errors import applied, difference, value_masked
from tests.stream_networks import GPT, HandRMSNorm

BAR = 1e-12


class RecurrentWords(nn.Module):
    """Words, an LSTM as wide as they are, and the words again."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(11, 6), nn.LSTM(6, 6, batch_first=True)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layer(self.words(x))[0])
        return y


class Cached(GPT):
    """Casts and an empty cache on the way, as transformers' decoders have them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + self.places(torch.arange(x.shape[1])).to(x.device)
        y = torch.cat([y.new_zeros(0), y.to(torch.float32)], -2)
        for block in self.blocks:
            y = block(y)
        z: Tensor = self.head(self.norm(y).type_as(y))
        return z


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gpt": GPT,
    "gpt, RMSNorm": lambda: GPT(nn.RMSNorm),
    "gpt, norm by hand": lambda: GPT(HandRMSNorm),
    "gpt, casts and a cache": Cached,
    "recurrent": RecurrentWords,
}


def network(name: str) -> Graph:
    torch.manual_seed(0)
    net = NETWORKS[name]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return gngraph.from_torch(net, torch.randint(0, 11, (2, 6)))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stream_of_tied_words_comes_and_goes_exactly(name: str) -> None:
    graph = network(name).to(torch.float64)
    spaces, probe = ChannelSpaces.of(graph), probe_of(graph)
    stream = spaces["words"]
    assert stream.frozen is None and stream.tied == ("words.weight",)
    assert share_free_both_ways(graph, spaces) == 1 and share_in_free_spaces(graph, spaces) > 0.97
    grown = applied(graph, spaces, [NewChannel(space.name) for space in spaces.free for _ in range(2)])
    assert relative_error(graph, grown) < BAR
    assert grown.params["words.weight"].data.shape[1] == stream.size + 2
    prunes = [PruneChannel("words", 0), PruneChannel("words", 3)]
    fewer = outputs64(applied(graph, spaces, prunes), probe)
    assert difference(outputs64(masked(graph, spaces, prunes), probe), fewer) < BAR
    assert difference(outputs64(graph, probe), fewer) > 1e-3
    if name != "recurrent":  # where the values that are masked are read by steps
        one = [PruneChannel("words", 1)]
        reference = value_masked(masked(graph, spaces, one), spaces, "words", 1)
        assert difference(reference, outputs64(applied(graph, spaces, one), probe)) < BAR


def test_what_cannot_be_exact_for_both_roles_is_refused() -> None:
    graph = network("gpt")
    spaces = ChannelSpaces.of(graph)
    b = torch.zeros(1, 8)
    with pytest.raises(
        PassError, match=r"a split of space 'words' cannot be exact, for 'words.weight' both writes and"
    ):
        applied(graph, spaces, [SplitChannel("words", 1)])
    with pytest.raises(PassError, match="a merge of space 'words' cannot be exact"):
        applied(graph, spaces, [MergeChannel("words", 1, {"words.weight": b + 1})])
    with pytest.raises(PassError, match="a new of space 'words' cannot be exact"):
        applied(graph, spaces, [NewChannel("words", rows={"words.weight": torch.zeros(11, 1)})])
    assert applied(graph, spaces, [MergeChannel("words", 1, {"words.weight": b})]).params["norm.weight"].data.shape == (
        7,
    )


def test_removals_from_a_tied_stream_are_scored() -> None:
    """A table that writes the channels keeps its other rows, whatever rebuilds what is removed."""
    graph = network("gpt")
    x = torch.randint(0, 11, (60, 6))
    problem = Problem((x, x.roll(-1, 1)), learn=20, judge=20, report=20, device="cpu", loss=_loss)
    scores = GaussNewton(kinds=("split", "prune", "merge", "new")).run(graph, AnalysisManager(problem))
    own = [c for c in scores.candidates if c.morphism.space == "words"]
    assert {c.morphism.kind for c in own} == {"prune", "merge"}
    spaces = ChannelSpaces.of(graph)
    assert all(applied(graph, spaces, [c.morphism]).params["words.weight"].data.shape == (11, 7) for c in own)
    assert any("several nodes read 'words.weight'" in note for note in scores.notes)


def _loss(y: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(y.transpose(1, 2), targets, reduction="none").mean(1)
