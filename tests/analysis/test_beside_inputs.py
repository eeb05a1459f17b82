"""Channels that are concatenated with what no layer writes (the input itself, an encoding of it, a constant) are free beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.importing.from_torch import from_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel, SplitChannel
from tests.local_errors import KeptValues


class Radiance(nn.Module):
    """The encoding of a point, and again beside what layers made of it, as in NeRF."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(9, 12), nn.Linear(12, 12), nn.Linear(12 + 9, 12)])
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        encoding = torch.cat([x, torch.sin(2 * x), torch.cos(2 * x)], -1)
        h = encoding
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([h, encoding], -1) if i == 2 else h).relu()
        out: Tensor = self.head(h)
        return out


class ConvLSTM(nn.Module):
    """An image of a film beside the state, and a state that begins with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.gates = nn.Conv2d(3 + 6, 24, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.hidden, *x.shape[3:])
        for t in range(x.shape[1]):
            i, f, o, g = torch.split(self.gates(torch.cat([x[:, t], h], 1)), self.hidden, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        out: Tensor = self.head(h.mean((2, 3)))
        return out


class InTime(nn.Module):
    """A differential equation of the state and the time, which is one more channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(5, 8), nn.Linear(9, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for i in range(3):
            time = torch.full_like(x[:, :1], i / 3)
            y = y + self.second(self.first(torch.cat([time, y], 1)).tanh()) / 3
        out: Tensor = self.head(y)
        return out


class DenselyOnPixels(nn.Module):
    """The image beside what a convolution makes of it, behind a norm of both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(9), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.head(self.norm(torch.cat((x, self.stem(x)), 1)).relu()), 1).flatten(1)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "NeRF": lambda: (Radiance(), torch.randn(4, 3)),
    "ConvLSTM": lambda: (ConvLSTM(), torch.randn(2, 4, 3, 5, 6)),
    "time as a channel": lambda: (InTime(), torch.randn(4, 5)),
    "pixels beside channels": lambda: (DenselyOnPixels(), torch.randn(2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_lies_beside_them_leaves_channels_free_and_exact(name: str) -> None:
    torch.manual_seed(0)
    graph = from_torch(*NETWORKS[name]())
    spaces = ChannelSpaces.of(graph)
    reasons = [(space.name, space.size, space.frozen) for space in spaces]
    assert share_in_free_spaces(graph, spaces) > 0.9, reasons
    assert share_free_both_ways(graph, spaces) == 1, reasons
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        assert errors.prune is not None
        assert max(errors.split.error, errors.new.error, errors.prune.error) < 1e-12, (space.name, errors)
    wider = morph(graph, spaces, [NewChannel(space.name) for space in spaces.free]).graph
    assert relative_error(graph, wider) < 1e-12
    split = morph(wider, ChannelSpaces.of(wider), [SplitChannel(space.name, 1) for space in spaces.free]).graph
    assert relative_error(graph, split) < 1e-12
    back = morph(split, ChannelSpaces.of(split), [PruneChannel(space.name, space.size) for space in spaces.free]).graph
    assert relative_error(graph, back) < 1e-12


def test_what_no_layer_writes_is_named_behind_what_they_write_and_stays() -> None:
    spaces = ChannelSpaces.of(from_torch(*NETWORKS["NeRF"]()))
    found = {space.name: (space.size, space.frozen) for space in spaces}
    assert found["layers.2"] == (12, None)
    assert found["layers.2#2"] == (9, "no layer writes it (node 'cat_1')")


class Tokens(nn.Module):
    """A token of its own in front of those of the input, and a table of all their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.token, self.positions = nn.Parameter(torch.randn(1, 2, 4)), nn.Parameter(torch.randn(1, 7, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        out: Tensor = self.head((x + self.inner(x)).mean(1))
        return out


def test_tokens_beside_those_of_the_input_are_no_channels() -> None:
    spaces = ChannelSpaces.of(from_torch(Tokens(), torch.randn(2, 5, 4)))
    assert all(space.size == 3 for space in spaces if space.name == "head")
    assert not [space for space in spaces.free if space.name != "inner"]
