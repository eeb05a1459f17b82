"""One sequence that attends to another: taken as it is, trained alike, with heads and streams that are free and change exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel
from tests.cross_attention import NETWORKS, Network, Translation, texts
from tests.local_errors import KeptValues
from tests.training_steps import Trial


def built(case: Network) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of one seed, every parameter of it random, and samples."""
    torch.manual_seed(0)
    network = case.make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return network, case.inputs()


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_taken_free_and_changed_exactly(name: str) -> None:
    network, example = built(NETWORKS[name])
    graph = from_torch(network, example)
    assert not any(node.op == "multihead_attention" for node in graph.nodes.values())
    spaces = ChannelSpaces.of(graph)
    assert share_in_free_spaces(graph, spaces) >= 0.97 and share_free_both_ways(graph, spaces) >= 0.85
    free = {space.name: space.size for space in spaces.free}
    assert NETWORKS[name].heads.items() <= free.items()
    kept, model = KeptValues(graph, spaces), CostModel(graph, spaces)
    for space in spaces.free:
        if not space.tied:
            errors = kept.errors(space.name, 0)
            found = [errors.split, errors.new, *([errors.prune] if errors.prune else [])]
            assert all(error <= 1e-10 for error, _ in found), (space.name, found)
        more = morph(graph, spaces, [NewChannel(space.name)]).graph
        assert cost(more) == cost(graph) + model.marginal(space.name, model.widths)
    batches = [list(example), [torch.cat([x, x[:1]]) for x in example]]
    of_inputs = all(x.is_floating_point() for x in example)
    assert list(Trial(batches, of_inputs=of_inputs).differences(network, to_torch(graph))) == []


def test_texts_may_have_other_lengths() -> None:
    network, example = built(NETWORKS["translation"])
    graph = from_torch(network, example)
    lowered = to_torch(graph)
    longer = torch.randint(1, 30, (3, 9)), torch.randint(1, 30, (3, 8))
    with torch.no_grad():
        torch.testing.assert_close(lowered(*longer), network.eval()(*longer))


def test_a_head_goes_out_of_both_projections() -> None:
    graph = from_torch(Translation(), texts())
    name = "transformer.decoder.layers.0.multihead_attn"
    smaller = morph(graph, ChannelSpaces.of(graph), [PruneChannel(name, 0)]).graph
    assert smaller.params[f"{name}.in_proj_weight"].data.shape == (24, 16)
    parts = [n for n in smaller.nodes.values() if n.params.get("weight") == f"{name}.in_proj_weight"]
    assert [node.attrs["rows"] for node in parts] == [(0, 8), (8, 24)] == [node.attrs["bias_rows"] for node in parts]


class Shared(nn.Module):
    """Rows of a weight that are read by layers, and as a value besides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(4, 3)
        self.weight = nn.Parameter(torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight[:4]
        x = F.relu(self.stem(x))
        y: Tensor = self.head(F.linear(x, rows) * F.linear(x, self.weight[4:]) + rows.mean())
        return y


class Overlapping(Shared):
    """Rows that are read twice, and some that are never."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y: Tensor = self.head(F.linear(x, self.weight[1:5]) * F.linear(x, self.weight[3:7]))
        return y


@pytest.mark.parametrize("make", [Shared, Overlapping])
def test_rows_that_meet_otherwise_are_taken_and_never_wrong(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network, example = make(), torch.randn(2, 5)
    graph = from_torch(network, example)
    assert [node.op for node in graph.nodes.values()].count("part_linear") == 2
    spaces = ChannelSpaces.of(graph)
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        assert all(found.error <= 1e-10 for found in (errors.split, errors.new, errors.prune) if found), space.name
    assert list(Trial([[example]]).differences(network, to_torch(graph))) == []


class MaskOfHeads(nn.Module):
    """Products added to a mask that differs from head to head, over samples times heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).view(*x.shape[:2], 2, 4).transpose(1, 2)
        mask = torch.tanh(x @ x.transpose(-2, -1)).flatten(0, 1)
        scores: Any = torch.baddbmm(mask, x.flatten(0, 1), x.transpose(-2, -1).flatten(0, 1))
        scores = scores.unflatten(0, (-1, 2))
        y: Tensor = self.head((scores.softmax(-1) @ x).transpose(1, 2).flatten(2))
        return y


def test_what_looks_like_it_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    network, example = MaskOfHeads(), torch.randn(2, 7, 5)
    graph = from_torch(network, example)
    assert "added_products" not in {node.op for node in graph.nodes.values()}
    assert list(Trial([[example]]).differences(network, to_torch(graph))) == []
