"""Networks that share their structure and not their names are compared node by node all the same."""

from __future__ import annotations

import torch
from torch import nn

import gngraph
from gngraph.ir import Graph, GraphDiff


class Block(nn.Module):
    """Residual, with a projection that runs last or first."""

    def __init__(self, names: tuple[str, ...], first: bool) -> None:
        super().__init__()
        self.names, self.first = names, first
        layers = (nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        for name, layer in zip(names, (*layers, nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Linear(6, 3)), strict=True):
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two, three, four, five, six, head = (getattr(self, name) for name in self.names)
        if self.first:
            beside = six(five(x))
            x = four(three(two(one(x)).relu())) + beside
        else:
            x = four(three(two(one(x)).relu())) + six(five(x))
        y: torch.Tensor = head(x.relu().mean((2, 3)))
        return y


def _graph(module: nn.Module, *shape: int) -> Graph:
    return gngraph.from_torch(module, torch.zeros(2, *shape))


def test_a_network_under_other_names_and_with_its_branches_in_another_order_is_the_same() -> None:
    first, second = Block(tuple("abcdefg"), first=False), Block(tuple("qrstuvw"), first=True)
    for ours, theirs in zip(first.children(), second.children(), strict=True):
        theirs.load_state_dict(ours.state_dict())
    found = gngraph.diff(_graph(first, 4, 5, 5), _graph(second, 4, 5, 5))
    assert found.is_empty and not found.weights.differing and found.weights.compared == 23
    assert (found.renamed["q"], found.renamed["v"], found.renamed["w"]) == ("a", "f", "g")
    assert found.render().splitlines()[0].startswith("names do not agree: 12 of 12 nodes are matched by structure")


def test_a_layer_that_shifts_the_names_behind_it_is_one_more_layer() -> None:
    plain = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    wider = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)]
    found: GraphDiff = gngraph.diff(_graph(nn.Sequential(*plain), 4), _graph(nn.Sequential(*wider), 4))
    assert [(edit.op, edit.name) for edit in found.nodes_added] == [("batch_norm1d", "_1_b")]
    assert not found.nodes_removed
    assert [(space.name, space.old, space.new) for space in found.spaces] == [("2", 5, 7)]


def test_names_count_where_most_lead_to_the_same_op() -> None:
    before = _graph(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), 4)
    after = _graph(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)), 4)
    found = gngraph.diff(before, after)
    assert not found.renamed and [edit.name for edit in found.nodes_changed] == ["_3"]
