"""FLOPs of products over axes agree with torch's own count, and the cost model with the cost of the grown graph."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.importing.from_torch import from_torch
from gngraph.rewrite.morphism import SplitChannel
from tests.morphism_errors import applied
from tests.test_user_networks import EinsumMixer, TinyGpt
from tests.width_networks import build


class Attention(nn.Module):
    """The attention module of torch, and scaled dot-product attention by function."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.attend(x, x, x, need_weights=False)
        z = nn.functional.scaled_dot_product_attention(y, y, y)
        return cast(torch.Tensor, self.head(z))


@pytest.mark.parametrize(
    ("module", "shape"),
    [(TinyGpt(), (7, 5)), (EinsumMixer(), (4, 5)), (Attention(), (6, 8)), (build("attention heads")[0], (4, 6))],
)
def test_flops_agree_with_torch(module: nn.Module, shape: tuple[int, ...]) -> None:
    graph = from_torch(module.eval(), torch.randn(2, *shape))
    counter = FlopCounterMode(display=False)
    with counter:
        module.to("meta")(torch.randn(1, *shape, device="meta"))
    assert cost(graph).flops == counter.get_total_flops()


def test_the_model_follows_heads() -> None:
    graph = from_torch(*build("attention heads"))
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    assert model.of(model.widths) == cost(graph)
    grown = applied(graph, spaces, [SplitChannel("qkv", 0), SplitChannel("project", 1), SplitChannel("project", 2)])
    assert model.of({**model.widths, "qkv": 3, "project": 7}) == cost(grown)


class Mixer(nn.Module):
    """A linear layer over tokens that a space makes: its positions grow with another space."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.head = nn.Linear(5, 7), nn.Linear(4, 6), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.mix(torch.relu(self.up(x)).transpose(1, 2)))
        return cast(torch.Tensor, self.head(y.transpose(1, 2)).mean(1))


def test_the_model_follows_positions() -> None:
    graph = from_torch(Mixer(), torch.randn(2, 4, 5))
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    assert model.of(model.widths) == cost(graph)
    grown = applied(graph, spaces, [SplitChannel("up", 0), SplitChannel("up", 1)])
    assert model.of({**model.widths, "up": 9}) == cost(grown)
