"""A module and its optimiser follow an exact rewrite: both go on as the rewritten network with carried moments does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.inplace import carry_into, difference, follow, followed, tensors_of
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import InsertLayer, Morphism, NewChannel, SplitChannel
from gngraph.training.optimizer_state import carry_state, extract, restore
from gngraph.training.training import trainable
from tests.cross_attention import Packed


class Blocks(nn.Module):
    """A residual block, groups, norms by channel and group, an embedding, and heads whose number is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12, padding_idx=0)
        self.mix = nn.Conv1d(12, 12, 3, padding=1, groups=3)
        self.group = nn.GroupNorm(3, 12)
        self.batch = nn.BatchNorm1d(12)
        self.heads = 2
        self.qkv = nn.Linear(12, 24)
        self.out = nn.Linear(8, 12)
        self.slope = nn.PReLU(12)
        self.register_buffer("shift", torch.linspace(-1, 1, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).transpose(1, 2)
        x = x + self.slope(self.batch(self.group(self.mix(x))))
        x = x.transpose(1, 2) + self.shift
        size = self.qkv.out_features // (3 * self.heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, size)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: torch.Tensor = self.head((x + self.out(mixed)).mean(1))
        return y


def tokens(count: int = 24) -> torch.Tensor:
    return torch.randint(11, (count, 7), generator=torch.Generator().manual_seed(count))


def losses(module: nn.Module) -> list[float]:
    """In eval mode and in train mode."""
    found, module = [], copy.deepcopy(module)
    for training in (False, True):
        module.train(training)
        found.append(float(F.cross_entropy(module(tokens()), tokens()[:, 0] % 5).detach()))
    return found


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    module.eval()  # BatchNorm as a fixed map
    optimizer.zero_grad()
    torch.autograd.backward(F.cross_entropy(module(tokens()), tokens()[:, 0] % 5))
    optimizer.step()


MAKES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("name", MAKES)
def test_an_exact_rewrite_changes_neither_the_loss_nor_the_next_step(name: str) -> None:
    torch.manual_seed(0)
    module = Blocks()
    optimizer = MAKES[name](module.parameters())
    for _ in range(5):
        step(module, optimizer)
    graph = from_torch(module, tokens())
    found = followed(module, graph, (tokens(),))
    assert not found.held and {place.attribute for place in found.places} <= {"heads"}
    spaces = ChannelSpaces.of(graph)
    morphisms: list[Morphism] = []
    for space in spaces.free:
        morphisms += [SplitChannel(space.name, 0), NewChannel(space.name)]
    wide = morph(graph, spaces, morphisms)
    before = losses(module)
    state = carry_state(extract(optimizer, trainable(graph, module), 10**6), graph, wide)

    follow(module, graph, wide.graph, found.places)
    assert not carry_into(optimizer, tensors_of(module, graph), graph, wide)
    assert losses(module) == pytest.approx(before, abs=1e-5) and all(map(math.isfinite, before))
    assert difference(module, wide.graph, (tokens(),)) is None

    twin = to_torch(wide.graph)
    fresh = MAKES[name](trainable(wide.graph, twin).values())
    restore(fresh, trainable(wide.graph, twin), state)
    step(module, optimizer)
    step(twin, fresh)
    assert all(torch.equal(a, b) for a, b in zip(tensors(module), tensors(twin), strict=True))


def tensors(module: nn.Module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


def test_numbers_of_every_layer_follow() -> None:
    module = Blocks()
    graph = from_torch(module, tokens())
    spaces = ChannelSpaces.of(graph)
    wide = morph(graph, spaces, [NewChannel(space.name) for space in spaces.free]).graph
    follow(module, graph, wide, followed(module, graph, (tokens(),)).places)
    width = module.embed.weight.shape[1]
    assert width > 12
    assert module.embed.embedding_dim == module.mix.in_channels == module.mix.out_channels == width
    assert module.mix.in_channels // module.mix.groups == module.mix.weight.shape[1]
    assert module.group.num_channels == module.batch.num_features == module.slope.num_parameters == width
    assert module.head.in_features == width
    assert module.heads == 3 and module.out.in_features == 12


class Stream(nn.Module):
    """A residual stream with a norm of torch's and one of its own, whose table of words is the head's weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.eps = nn.Embedding(9, 8), nn.LayerNorm(8), 1e-4
        self.up, self.down, self.scale = nn.Linear(8, 12), nn.Linear(12, 8), nn.Parameter(torch.ones(8))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return F.linear(F.layer_norm(x, (x.shape[-1],), self.scale, None, self.eps), self.words.weight)


def test_what_a_norm_adds_to_the_variance_follows() -> None:
    module, x = Stream(), torch.randint(9, (4, 5))
    graph = from_torch(module, x)
    found = followed(module, graph, (x,))
    assert not found.held
    spaces = ChannelSpaces.of(graph)
    before = module(x).detach()
    wide = morph(graph, spaces, [NewChannel("words")] * 8).graph
    follow(module, graph, wide, found.places)
    assert module.norm.normalized_shape == (16,) and module.norm.eps == 1e-5 / 2 and module.eps == 1e-4 / 2
    assert torch.allclose(module(x), before, atol=1e-5)
    assert difference(module, wide, (x,)) is None


def test_a_norm_that_would_be_written_out_holds_its_width() -> None:
    torch.manual_seed(0)
    module, x = Packed(), torch.randn(4, 7, 5)
    assert "norm" in followed(module, from_torch(module, x), (x,)).held["stem"]
    whole, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        torch.randn(4, 3, 8, 8),
    )
    held = followed(whole, from_torch(whole, x), (x,)).held
    assert held.keys() == {"0"} and "norm '1' counts its channels" in held["0"]


def test_numbers_of_layers_with_a_forward_of_their_own_follow() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    class Bounded(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input.clamp(-3, 3))

    module = nn.Sequential(
        Bounded(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Scaled(4, 6), Scaled(6, 2)
    )
    graph = from_torch(module, torch.randn(2, 3, 8, 8))
    spaces = ChannelSpaces.of(graph)
    assert len(spaces.free) == 2
    follow(module, graph, morph(graph, spaces, [NewChannel(space.name) for space in spaces.free]).graph)
    sizes = [
        (m.in_channels, m.out_channels) if isinstance(m, Bounded) else (m.in_features, m.out_features)
        for m in module
        if isinstance(m, Bounded | Scaled)
    ]
    assert sizes == [(3, 5), (5, 7), (7, 2)]


def test_layers_that_come_are_refused_and_nothing_changes() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    graph = from_torch(module, torch.randn(2, 4))
    deeper = morph(graph, ChannelSpaces.of(graph), [InsertLayer("1" if "1" in graph.nodes else "_1")]).graph
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(UnsupportedModelError, match="come or go"):
        follow(module, graph, deeper)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_difference_is_seen_in_train_mode_alone() -> None:
    class Modal(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.layer, self.factor = nn.Linear(4, 3), factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x)
            return y * self.factor if self.training else y

    x = torch.randn(4, 4)
    one, other = Modal(1.0), Modal(2.0)
    other.load_state_dict(one.state_dict())
    graph: Graph = from_torch(one, x)
    assert difference(one, graph, (x,)) is None
    assert "in train mode" in (difference(other, graph, (x,)) or "")


def test_memory_layout_and_dtype_stay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last)
    graph = from_torch(module, torch.randn(2, 3, 8, 8))
    spaces = ChannelSpaces.of(graph)
    follow(module, graph, morph(graph, spaces, [NewChannel(spaces.free[0].name)]).graph)
    weight = next(module.parameters())
    assert weight.shape[0] == 5 and weight.is_contiguous(memory_format=torch.channels_last)
