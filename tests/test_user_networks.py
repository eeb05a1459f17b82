"""Networks as users write them: what can grow grows, the rest is frozen with a reason, and nothing breaks."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.equivalence import relative_error
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphism import NewChannel, SplitChannel
from tests.morphism_errors import applied, errors_of
from tests.small_networks import calibrated


class CausalAttention(nn.Module):
    """One projection for query, key and value; heads by view; the model's width comes from the input's size."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.width = width
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(self.width, dim=2)
        q = q.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        k = k.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        v = v.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        scores = (q @ k.transpose(-2, -1)) * (1.0 / (k.size(-1) ** 0.5))
        scores = scores.masked_fill(cast(torch.Tensor, self.mask)[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return cast(torch.Tensor, self.project(y.transpose(1, 2).contiguous().view(b, t, c)))


class Block(nn.Module):
    """Attention and a SwiGLU by chunk, each behind LayerNorm and added to the stream."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln1, self.attention = nn.LayerNorm(width), CausalAttention(width, heads)
        self.ln2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.ln1(x))
        value, gate = self.up(self.ln2(x)).chunk(2, dim=-1)
        return cast(torch.Tensor, x + self.drop(self.down(value * F.silu(gate))))


class TinyGpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.blocks = nn.Sequential(Block(8, 2, 6), Block(8, 2, 7))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.norm(self.blocks(self.embed(x)))))


class UNet(nn.Module):
    """Two levels, skips by concatenation, upsampling by transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = (self.block(3, 4), self.block(4, 6), self.block(6, 8))
        self.up2, self.merge2 = nn.ConvTranspose2d(8, 6, 2, stride=2), self.block(12, 6)
        self.up1, self.merge1 = nn.ConvTranspose2d(6, 4, 2, stride=2), self.block(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        y = self.middle(F.max_pool2d(two, 2))
        y = self.merge2(torch.cat([two, self.up2(y)], dim=1))
        y = self.merge1(torch.cat([one, self.up1(y)], dim=1))
        return cast(torch.Tensor, self.head(y))


class GatedConvolutions(nn.Module):
    """Gated linear units along a sequence, with residual connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 6, 3, padding=1)
        self.gates = nn.ModuleList(nn.Conv1d(6, 12, 3, padding=1) for _ in range(2))
        self.backs = nn.ModuleList(nn.Conv1d(6, 6, 1) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for gate, back in zip(self.gates, self.backs, strict=True):
            a, b = gate(x).chunk(2, dim=1)
            x = x + back(a * torch.sigmoid(b))
        return cast(torch.Tensor, self.head(x.mean(-1)))


class EinsumMixer(nn.Module):
    """An MLP-mixer whose layers are einsums over raw parameters."""

    def __init__(self, tokens: int = 4, width: int = 6, hidden: int = 7, between: int = 5) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(5, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_in, self.token_out = (
            nn.Parameter(torch.randn(between, tokens) * 0.3),
            nn.Parameter(torch.randn(tokens, between) * 0.3),
        )
        self.up, self.down = (
            nn.Parameter(torch.randn(width, hidden) * 0.3),
            nn.Parameter(torch.randn(hidden, width) * 0.3),
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        y = F.gelu(torch.einsum("btc,st->bsc", self.norm1(x), self.token_in))
        x = x + torch.einsum("bsc,ts->btc", y, self.token_out)
        y = F.gelu(torch.einsum("btc,ch->bth", self.norm2(x), self.up))
        x = x + torch.einsum("bth,hc->btc", y, self.down)
        return cast(torch.Tensor, self.head(x.mean(1)))


CASES = {
    "gpt": (TinyGpt, (7, 5), {"embed": 8, "blocks.0.up": 6, "blocks.1.up": 7, **{f"blocks.{i}.attention.qkv": 2 for i in (0, 1)}}),
    "u-net": (UNet, (3, 8, 8), {
        "down1.0": 4, "down1.3": 4, "down2.0": 6, "down2.3": 6, "middle.0": 8, "middle.3": 8, "up2": 6, "merge2.0": 6,
        "merge2.3": 6, "up1": 4, "merge1.0": 4, "merge1.3": 4,
    }),
    "gated convolutions": (GatedConvolutions, (3, 8), {"stem": 6, "gates.0": 6, "gates.1": 6}),
    "einsum mixer": (EinsumMixer, (4, 5), {"embed": 6, "einsum": 5, "einsum_2": 7}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_can_grow_grows_and_nothing_breaks(name: str) -> None:
    make, shape, free = CASES[name]
    torch.manual_seed(0)
    module, example = calibrated(make(), *shape), torch.randn(2, *shape)
    graph = from_torch(module, example)
    spaces = ChannelSpaces.of(graph)
    assert {s.name: s.size for s in spaces.free} == free, [(s.name, s.size, s.frozen) for s in spaces]
    assert all(space.frozen is None or "(node '" in space.frozen for space in spaces)
    for space in spaces.free:
        errors = errors_of(graph, spaces, space.name)
        assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space.name, errors)
    wide = graph.to(torch.float64)
    grown = applied(wide, spaces, [m for s in spaces.free for m in (SplitChannel(s.name, 1), NewChannel(s.name))])
    assert relative_error(wide, grown) < 1e-12
    lowered = to_torch(grown.to(torch.float32))
    loss = lowered.train()(example).square().mean()
    loss.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in lowered.parameters())


class WordCounter(nn.Module):
    """Classes of texts of six words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(20, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.relu(self.inner(self.words(x).mean(1))))
        return y


def test_a_module_that_reads_whole_numbers_is_traced_on_its_data() -> None:
    x = torch.randint(20, (120, 6), generator=torch.Generator().manual_seed(0))
    problem = gngraph.Problem((x, (x < 10).sum(1).gt(3).long()), device="cpu", batch_size=30)
    grown = gngraph.grow(WordCounter(), problem, max_params=250, rounds=1, epochs=1, final_epochs=1)
    assert cost(grown.seed).params < cost(grown.graph).params <= 250
