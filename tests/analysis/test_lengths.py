"""What a width is must not depend on how large the example was: changes are exact at other sizes of the input too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel
from tests.local_errors import relative


class Sizes(nn.Module):
    """Layers around a function of maps, for images of any size."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.c(torch.relu(self.b(self.function(torch.tanh(self.a(x))))).mean((2, 3)))


def normalised(h: Tensor) -> Tensor:
    """MUNIT's LayerNorm."""
    shape = [-1] + [1] * (h.dim() - 1)
    mean, std = h.view(h.size(0), -1).mean(1).view(*shape), h.view(h.size(0), -1).std(1).view(*shape)
    return (h - mean) / (std + 1e-5)


def reshaped_where_transposed(h: Tensor) -> Tensor:
    return h.flatten(2).mT.reshape(h.shape)


def by_hand(h: Any) -> Any:
    return h - h.sum((1, 2, 3), keepdim=True) / (h.size(1) * h.size(2) * h.size(3))


def scaled_by_each(h: Any) -> Any:
    return h / h.size(1) ** 0.5 / (h.size(2) * h.size(3))


def there_and_back(h: Any) -> Any:
    return h.flatten(1).view(h.shape) + h.flatten(1).unflatten(1, (h.size(1), -1)).view(h.shape)


def of_each(h: Tensor) -> Tensor:
    return h / (h.flatten(2).std(2) + h.mean((1, 2, 3)).view(-1, 1)).view(h.size(0), -1, 1, 1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (normalised, "it is counted along with positions, of which others may come"),
        (reshaped_where_transposed, "its channels depend on the size of the network's input"),
        (by_hand, "a number is computed of it and of the size of the network's input"),
        (scaled_by_each, None),
        (there_and_back, None),
        (of_each, None),
    ],
)
def test_a_change_is_exact_at_other_sizes(function: Callable[[Tensor], Tensor], reason: str | None) -> None:
    torch.manual_seed(0)
    graph = from_torch(Sizes(function).double(), torch.zeros(2, 3, 2, 2, dtype=torch.float64))
    spaces = ChannelSpaces.of(graph)
    assert [space.frozen.partition(" (node '")[0] for space in spaces if space.name == "a" and space.frozen] == (
        [] if reason is None else [reason]
    )
    wider = morph(graph, spaces, [NewChannel(space.name) for space in spaces.free]).graph
    for size in ((2, 2), (8, 4), (5, 7)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        assert relative(to_torch(wider)(x), to_torch(graph)(x)) < 1e-10
