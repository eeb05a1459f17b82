"""Channels that come from constants are held; constants that only accompany learned channels follow them."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_torch import from_torch
from tests.morphism_errors import errors_of


class Table(nn.Module):
    """Mixes rows that a layer computes from a table of numbers, as Swin v2 does with its relative coordinates."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        values = torch.randn(5, 2)
        if kind == "buffer":
            self.register_buffer("table", values)
        elif kind == "constant":
            self.register_buffer("table", values, persistent=False)
        else:
            self.table = nn.Parameter(values, requires_grad=kind == "learned")
        self.rows, self.mix, self.out = nn.Linear(2, 8), nn.Linear(3, 5), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(
            torch.Tensor,
            self.out(torch.softmax(self.mix(x), -1) @ torch.relu(self.rows(cast(torch.Tensor, self.table)))),
        )


@pytest.mark.parametrize(
    ("kind", "named"), [("buffer", "buffer"), ("constant", "constant"), ("not learned", "parameter")]
)
def test_the_columns_of_a_table_of_constants_are_held(kind: str, named: str) -> None:
    spaces = ChannelSpaces.of(from_torch(Table(kind), torch.zeros(2, 3)))
    assert spaces["table"].size == 2
    assert spaces["table"].frozen == f"it is written by the {named} 'table', which is not learned (node 'table')"
    assert {space.name: space.size for space in spaces.free} == {"rows": 8}


def test_the_columns_of_a_learned_table_are_free() -> None:
    spaces = ChannelSpaces.of(from_torch(Table("learned"), torch.zeros(2, 3)))
    assert {space.name: space.size for space in spaces.free} == {"table": 2, "rows": 8}


class RandomFeatures(nn.Module):
    """A layer whose weight is a constant writes the channels, alone or beside a learned one."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(6, 3))
        self.bias, self.out = nn.Parameter(torch.zeros(6)), nn.Linear(6, 2)
        self.beside = nn.Linear(3, 6) if beside else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.linear(x, cast(torch.Tensor, self.directions), self.bias)
        return cast(torch.Tensor, self.out(torch.cos(h if self.beside is None else h + self.beside(x))))


@pytest.mark.parametrize("beside", [False, True])
def test_a_layer_with_a_constant_weight_holds_what_it_writes(beside: bool) -> None:
    spaces = ChannelSpaces.of(from_torch(RandomFeatures(beside), torch.zeros(2, 3)))
    assert not spaces.free
    assert spaces["linear"].frozen == "it is written by the buffer 'directions', which is not learned (node 'linear')"


class Accompanied(nn.Module):
    """Learned channels with a fixed scale, fixed positions and a learned token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.out = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions: torch.Tensor
        self.register_buffer("positions", torch.randn(1, 4, 4))
        self.register_buffer("scale", torch.rand(4) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x) * self.scale], 1) + self.positions
        return cast(torch.Tensor, self.out(torch.relu(self.up(torch.relu(h))).mean(1)))


def test_constants_that_accompany_learned_channels_follow_them() -> None:
    graph = from_torch(Accompanied(), torch.zeros(2, 3, 3))
    spaces = ChannelSpaces.of(graph)
    assert {space.size for space in spaces.free} == {4, 5}
    for space in spaces.free:
        errors = errors_of(graph, spaces, space.name)
        assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space.name, errors)
