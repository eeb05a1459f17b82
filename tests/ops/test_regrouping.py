"""A reshape keeps the axis that carries its channels, whatever sizes come to agree when channels come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.errors import IRError
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.lowering.probe import probe_of
from gngraph.ops.vet import vet
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import PruneChannel
from tests.morphism_errors import applied, difference, errors_of


class Regrouped(nn.Module):
    """A layer, a view of its outputs, and a layer that reads one of the axes."""

    def __init__(self, layer: nn.Module, view: Callable[[torch.Tensor], torch.Tensor], head: nn.Module) -> None:
        super().__init__()
        self.layer, self.view, self.head = layer, view, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.tanh(self.view(self.layer(x))))
        return y


# layer, view, head, shape of an input, channels at first
CASES: dict[str, tuple[nn.Module, Callable[[torch.Tensor], torch.Tensor], nn.Module, tuple[int, ...], int]] = {
    "the first of three, which comes to count four parts": (
        nn.Linear(3, 120), lambda y: y.view(-1, 6, 4, 5), nn.Conv2d(6, 2, 1), (3,), 6,
    ),
    "the first of two, whose size comes to be one": (
        nn.Linear(3, 12), lambda y: y.view(-1, 3, 4), nn.Conv1d(3, 2, 1), (3,), 3,
    ),
    "axes that come to agree one by one": (
        nn.Linear(3, 6), lambda y: y.view(-1, 6, 2), nn.Conv1d(6, 2, 1), (2, 3), 3,
    ),
    "an unflattened axis": (
        nn.Linear(3, 12), lambda y: torch.unflatten(y, 1, (3, -1)), nn.Conv1d(3, 2, 1), (3,), 3,
    ),
    "a size that is computed, beside ones": (
        nn.Conv2d(3, 4, 1), lambda y: y.view(y.size(0), y.size(1) // 4, 4, y.size(2), y.size(3)), nn.Conv3d(1, 2, 1),
        (3, 2, 2), 1,
    ),
    "beside branches that a gate weighs": (
        nn.Linear(3, 12), lambda y: (y.view(-1, 2, 6) * y.tanh().view(-1, 2, 6).softmax(1)).sum(1), nn.Linear(6, 2), (3,), 6,
    ),
    "beside parts of which the largest counts": (
        nn.Linear(3, 12), lambda y: y.view(-1, 3, 4).max(1).values, nn.Linear(4, 2), (3,), 4,
    ),
    "beside parts that are averaged": (
        nn.Conv2d(3, 12, 1), lambda y: torch.unflatten(y, 1, (2, 6)).mean(dim=1), nn.Conv2d(6, 2, 1), (3, 2, 2), 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_space_stays_free_down_to_one_channel_and_up_again(name: str) -> None:
    layer, view, head, shape, size = CASES[name]
    graph = from_torch(Regrouped(layer, view, head), torch.randn(2, *shape)).to(torch.float64)
    for _ in range(size - 1):
        spaces = ChannelSpaces.of(graph)
        (space,) = spaces.free
        prune = PruneChannel(space.name, 0)
        expected = outputs64(masked(graph, spaces, [prune]), probe_of(graph))
        graph = applied(graph, spaces, [prune])
        assert difference(expected, outputs64(graph, probe_of(graph))) < 1e-12
    spaces = ChannelSpaces.of(graph)
    assert [space.size for space in spaces.free] == [1], [(s.name, s.size, s.frozen) for s in spaces]
    errors = errors_of(graph, spaces, spaces.free[0].name)
    assert max(errors.split, errors.new) < 1e-12


class PooledByLayer(nn.Module):
    """The single entry that a layer makes of an axis is flattened behind the channels, and read by itself as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv1d(2, 4, 1), nn.Linear(6, 1)
        self.wide, self.head = nn.Linear(1, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.pool(torch.relu(self.stem(x)))
        return self.head(pooled.flatten(1)), self.wide(pooled)


def test_a_single_entry_that_is_flattened_behind_channels_cannot_become_two() -> None:
    graph = from_torch(PooledByLayer(), torch.randn(2, 2, 6))
    spaces = ChannelSpaces.of(graph)
    assert spaces["pool"].frozen == "it is flattened together with another axis with channels (node 'flatten')"


def pruned(name: str) -> Graph:
    layer, view, head, shape, _ = CASES[name]
    graph = from_torch(Regrouped(layer, view, head), torch.randn(2, *shape))
    spaces = ChannelSpaces.of(graph)
    return applied(graph, spaces, [PruneChannel(spaces.free[0].name, 1)])


def test_the_choice_survives_text_and_archive(tmp_path: object) -> None:
    graph = pruned("the first of two, whose size comes to be one")
    assert same_structure(parse(format_graph(graph)), graph)
    path = f"{tmp_path}/pruned.gng"
    save(graph, path)
    assert [s.size for s in ChannelSpaces.of(load(path)).free] == [2]


@pytest.mark.parametrize(
    "regroup",
    [None, 3, ((1, 1),), ((1, 1, 0),), ((1, 1, 0), (1, 2, 2)), ((1, 2, 0), (1, 1, 0)), ((2, 3, -1),), ((0, 1, 0), (2, 2, 0))],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused(regroup: object) -> None:
    graph = pruned("the first of two, whose size comes to be one")
    (view,) = (node for node in graph.nodes.values() if node.op == "reshape")
    wrong = replace(graph, nodes={**graph.nodes, view.name: replace(view, attrs={**view.attrs, "regroup": regroup})})
    with pytest.raises(IRError, match=rf"node '{view.name}' \(reshape\)"):
        vet(wrong)
