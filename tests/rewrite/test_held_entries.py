"""Entries that nothing learns: padding rows of embeddings stay, and statistics in buffers are those of a channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.equivalence import relative_error
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.ops import lookup
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.rewrite.surgery import padding_rows
from gngraph.running.problem import Problem
from gngraph.training.perturbation import perturbed

PADDING = 2


class Words(nn.Module):
    """Embeddings in each spelling, and a layer on what they give."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "function":
            self.weight = nn.Parameter(torch.randn(9, 4))
        else:
            make = {"module": nn.Embedding, "bag": nn.EmbeddingBag}[kind]
            self.table = make(9, 4, padding_idx=PADDING)
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.embedding(x, self.weight, padding_idx=PADDING) if self.kind == "function" else self.table(x)
        y = torch.tanh(self.layer(torch.tanh(y)))
        return cast(Tensor, self.head(y if self.kind == "bag" else y.mean(1)))


KINDS = ("module", "bag", "function")


def words(kind: str) -> tuple[Graph, str, str]:
    """A graph, its embedding's weight, and the space of its columns; the bag's padding row is one of a user's own."""
    torch.manual_seed(0)
    network = Words(kind)
    if kind != "module":
        with torch.no_grad():
            next(network.parameters())[PADDING] = torch.tensor([1.0, -2.0, 3.0, -4.0])
    graph = from_torch(network, torch.randint(0, 9, (2, 6)))
    weight = next(iter(graph.params))
    return graph, weight, ChannelSpaces.of(graph).axes[weight, 1][0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_padding_row_and_every_other(kind: str) -> None:
    graph, weight, _ = words(kind)
    assert padding_rows(graph, weight) == (PADDING,)
    module = to_torch(graph)
    torch.autograd.backward(cast(Tensor, module(torch.arange(9).repeat(2, 1))).square().sum())
    gradient = dict(module.named_parameters())[weight].grad
    assert gradient is not None
    assert [row for row in range(9) if not bool(gradient[row].any())] == [PADDING]


def test_an_embedding_without_padding_has_no_such_row() -> None:
    graph = from_torch(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)), torch.zeros(2, 6, dtype=torch.int64))
    assert padding_rows(graph, "0.weight") == () == padding_rows(graph, "1.weight")
    node = graph.nodes[graph.readers("0.weight")[0][0]]
    assert lookup(node.op).padding_row(node) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_padding_row_stays_and_is_zero_in_new_columns(kind: str) -> None:
    graph, weight, space = words(kind)
    spaces, old = ChannelSpaces.of(graph), graph.params[weight].data
    learned = NewChannel(space, {weight: torch.full((9, 1), 7.0)})
    split = SplitChannel(space, 1, weight, torch.full((9, 1), 0.5), torch.full((9, 1), -0.5))
    morphisms: list[Morphism] = [PruneChannel(space, 0), split, NewChannel(space), learned]
    new = morph(graph, spaces, morphisms, torch.Generator().manual_seed(0)).graph.params[weight].data
    assert new[PADDING].tolist() == [*old[PADDING, [1, 2, 3, 1]].tolist(), 0.0, 0.0]
    others = [row for row in range(9) if row != PADDING]
    assert torch.equal(new[others, 0], old[others, 1] + 0.5) and torch.equal(new[others, 3], old[others, 1] - 0.5)
    assert bool((new[others, 4] != 0).all()) and bool((new[others, 5] == 7).all())


def test_the_padding_row_stays_when_weights_are_perturbed_and_grown() -> None:
    graph, weight, _ = words("module")
    x = torch.randint(0, 9, (96, 6))
    problem = Problem((x, (x.sum(1) % 3)), device="cpu", learn=32, judge=32, report=32)
    grown = gngraph.grow(graph, problem, max_params=2 * cost(graph).params, rounds=2, epochs=1, final_epochs=1).graph
    assert grown.params[weight].data.shape[1] > 4  # new columns, perturbed and trained
    assert not bool(grown.params[weight].data[PADDING].any())

    own = graph.with_params({weight: torch.arange(36.0).view(9, 4)})
    mixed = perturbed(own, 0.5, 3).params[weight].data
    assert torch.equal(mixed[PADDING], torch.arange(8.0, 12.0))
    assert bool((mixed[PADDING + 1 :] != own.params[weight].data[PADDING + 1 :]).all())


class Scaled(nn.Module):
    """A norm of one's own: statistics in buffers, one of them a constant, and whole numbers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(channels))
        self.register_buffer("variance", torch.rand(channels) + 0.5)
        self.register_buffer("shift", torch.arange(channels), persistent=False)
        self.scale = nn.Parameter(torch.rand(channels) + 0.5, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, shift, scale = (
            cast(Tensor, t).view(1, -1, 1, 1) for t in (self.mean, self.variance, self.shift, self.scale)
        )
        return (x - mean) / variance.sqrt() * scale.log().exp() + shift


class Masked(nn.Module):
    """Channels that an einsum scales by a buffer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,c->nchw", x, cast(Tensor, self.mask)).log1p()


def frozen_norm(channels: int) -> nn.Module:
    norm: nn.Module = FrozenBatchNorm2d(channels)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(channels) + 0.5)
    return norm


NORMS: dict[str, Callable[[int], nn.Module]] = {"frozen": frozen_norm, "own": Scaled, "mask": Masked}


@pytest.mark.parametrize("name", NORMS)
def test_statistics_in_buffers_of_a_new_channel_are_those_of_one(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), NORMS[name](4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    graph = from_torch(net, torch.randn(2, 1, 8, 8))
    spaces = ChannelSpaces.of(graph)
    assert [space.name for space in spaces.free] == ["0"]
    held = [n for n in graph.params if n.startswith("2.") and graph.params[n].data.dim() == 1]
    assert held
    rewritten = morph(graph, spaces, [NewChannel("0")] * 6, torch.Generator().manual_seed(0)).graph
    for name_of in held:
        old, new = graph.params[name_of].data, rewritten.params[name_of].data
        assert torch.equal(new, old[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]), name_of  # of one channel in every buffer
    assert relative_error(graph, rewritten) < 1e-12
    wide, narrow = (to_torch(g).eval()(torch.randn(2, 1, 8, 8)) for g in (rewritten, graph))
    assert bool(cast(Any, wide).isfinite().all()) and bool(cast(Any, narrow).isfinite().all())


def test_a_network_of_frozen_norms_grows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), frozen_norm(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 3)
    )
    x = torch.randn(96, 1, 8, 8)
    problem = Problem((x, x.mean((1, 2, 3)).sign().long() + 1), device="cpu", learn=32, judge=32, report=32)
    result = gngraph.grow(net, problem, max_params=400, rounds=2, epochs=1, final_epochs=1)
    assert result.graph.params["1.running_var"].data.numel() > 4
    assert set(result.graph.params["1.running_var"].data.tolist()) <= set(cast(Tensor, net[1].running_var).tolist())
