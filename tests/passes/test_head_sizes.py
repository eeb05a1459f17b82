"""Sizes of heads: which of them are free, that they come and go exactly, and that whole heads come back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.ir import Graph, format_graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel, SplitChannel
from gngraph.zoo import build_seed
from tests.local_errors import relative
from tests.morphism_errors import errors_of


class Attending(nn.Module):
    """Attention over [N, 5, 6], by a function of (queries, keys, values), each [N, heads, 5, 3]."""

    def __init__(self, call: Callable[[Tensor, Tensor, Tensor], Tensor], heads: int = 2) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 3 * heads), nn.Linear(6, 3 * heads)
        self.out, self.head, self.call = nn.Linear(6, 6), nn.Linear(6, 4), call

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, -1, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = self.out(self.call(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = self.head((x + y).relu().mean(1))
        return out


class Together(nn.Module):
    """Queries, keys and values by one matrix, from [N, 5, 18] by a function, with a table that tells how far tokens are apart."""

    def __init__(self, parts: Callable[[Tensor], Sequence[Tensor]]) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 4)
        self.far, self.parts = nn.Parameter(torch.randn(2, 5, 5)), parts

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(self.qkv(x))
        y = ((q @ k.transpose(-2, -1) * 3**-0.5 + self.far).softmax(-1) @ v).transpose(1, 2).reshape(len(x), 5, 6)
        out: Tensor = self.head((x + self.out(y)).relu().mean(1))
        return out


def beside_samples(y: Tensor) -> Sequence[Tensor]:
    parts = (part.transpose(1, 2).reshape(-1, 5, 3) for part in y.view(len(y), 5, 2, 3, 3).unbind(3))
    return [part.view(len(y), 2, 5, 3) for part in parts]


def by_number(y: Tensor) -> Sequence[Tensor]:
    return [y[:, :, i].transpose(1, 2) for i in range(3)]


PARTS: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
    "parts, heads, entries": lambda y: y.view(len(y), 5, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0),
    "parts by number": lambda y: by_number(y.reshape(-1, 5, 3, 2, 3)),
    "heads, parts, entries": lambda y: y.view(len(y), 5, 2, 3, 3).transpose(1, 2).unbind(3),
    "parts of heads": lambda y: y.view(len(y), 5, 6, 3).transpose(1, 2).chunk(3, 1),
    "parts of entries": lambda y: y.view(len(y), 5, 2, 9).transpose(1, 2).chunk(3, -1),
    "beside samples": beside_samples,
}


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(-1) @ v


def copied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By pairs of entries, as rotary positions do; the last of three stays."""
    angles = torch.linspace(0, 1, 5).unsqueeze(1)

    def turn(x: Tensor) -> Tensor:
        a, b, c = x.chunk(3, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos(), c], -1)

    return F.scaled_dot_product_attention(turn(q), turn(k), v)


FREE: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: Attending(F.scaled_dot_product_attention),
    "by hand": lambda: Attending(by_hand),
    "keys that several queries share": lambda: Attending(copied, heads=1),
    "gpt": lambda: build_seed("gpt", width=0.5, classes=11, input_shape=(6,)),
    "vit": lambda: build_seed("vit", width=0.5, classes=5, input_shape=(3, 8, 8)),
    **{name: partial(Together, parts) for name, parts in PARTS.items()},
}


def samples(name: str) -> Tensor:
    shapes = {"gpt": torch.randint(0, 11, (2, 6)), "vit": torch.randn(2, 3, 8, 8)}
    return shapes.get(name, torch.randn(2, 5, 6))


@cache
def prepared(name: str) -> tuple[Graph, Graph]:
    """A float64 graph as it is imported, and with head sizes."""
    torch.manual_seed(0)
    graph = gngraph.from_torch(FREE[name]().eval(), samples(name)).to(torch.float64)
    return graph, gngraph.PassManager("head-sizes").run(graph).graph


def sizes_of(graph: Graph) -> list[str]:
    """Free spaces of queries and keys, and of values."""
    spaces = ChannelSpaces.of(graph)
    return [s.name for s in spaces.free if s.name.split("#")[0].split(".")[-1] in ("q", "k", "v", "qkv")]


@pytest.mark.parametrize("name", FREE)
def test_sizes_come_and_go_exactly(name: str) -> None:
    _, graph = prepared(name)
    spaces, names = ChannelSpaces.of(graph), sizes_of(graph)
    blocks = 4 if name in ("gpt", "vit") else 1
    assert len(names) == (1 if name in PARTS else 2) * blocks and {spaces[space].size for space in names} == {
        32 if blocks == 4 else 3
    }
    for space in names[:2]:
        errors = errors_of(graph, spaces, space, 1)
        assert max(errors.split, errors.new, errors.masked, errors.values) <= 1e-12
    x = (samples(name).double() if samples(name).is_floating_point() else samples(name),)
    grown = morph(graph, spaces, [NewChannel(space) for space in names]).graph
    assert relative(outputs64(grown, x), outputs64(graph, x)) <= 1e-12
    again = ChannelSpaces.of(grown)
    assert [again[space].size for space in names] == [spaces[space].size + 1 for space in names]
    back = morph(grown, again, [PruneChannel(space, spaces[space].size) for space in names]).graph
    assert relative(outputs64(back, x), outputs64(graph, x)) <= 1e-12


@pytest.mark.parametrize("name", FREE)
def test_whole_heads_come_back(name: str) -> None:
    before, graph = prepared(name)
    assert format_graph(graph) != format_graph(before)
    assert format_graph(gngraph.PassManager("whole-heads").run(graph).graph) == format_graph(before)


@pytest.mark.parametrize("make", [lambda: Attending(turned)])
def test_sizes_that_hang_together_with_something_else_stay(make: Callable[[], nn.Module]) -> None:
    graph = gngraph.PassManager("head-sizes").run(gngraph.from_torch(make().eval(), torch.randn(2, 5, 6))).graph
    spaces = ChannelSpaces.of(graph)
    assert not {"q", "k"} & {space.name for space in spaces.free}
    for space in spaces.free:
        errors = errors_of(graph.to(torch.float64), spaces, space.name, 0)
        assert max(errors.split, errors.new) <= 1e-12


@pytest.mark.parametrize("name", PARTS)
def test_what_is_written_of_other_sizes_is_read_again(name: str) -> None:
    _, graph = prepared(name)
    names = sizes_of(graph)
    new = morph(graph, ChannelSpaces.of(graph), [NewChannel(names[0]), SplitChannel(names[0], 1)]).graph
    example = torch.randn(2, 5, 6, dtype=torch.float64)
    again = gngraph.PassManager("head-sizes").run(gngraph.from_torch(to_torch(new), example)).graph
    assert ChannelSpaces.of(again)[names[0]].size == 5
    assert torch.equal(outputs64(again, (example,))[0], outputs64(new, (example,))[0])


def test_a_shrink_takes_sizes() -> None:
    torch.manual_seed(0)
    module = Attending(F.scaled_dot_product_attention)
    graph = gngraph.PassManager("head-sizes").run(gngraph.from_torch(module, torch.randn(2, 5, 6))).graph
    data = (torch.randn(64, 5, 6), torch.randint(0, 4, (64,)))
    made = gngraph.shrink(graph, data, to=0.7, params_to=0.7, epochs=0, only=("q", "v")).graph
    shapes = {name: tuple(p.data.shape) for name, p in made.params.items()}
    assert shapes["q.weight"] == shapes["k.weight"] and shapes["q.weight"][0] % 2 == 0
    assert shapes["q.weight"][0] + shapes["v.weight"][0] < 12


def test_a_shrink_takes_sizes_that_one_matrix_writes() -> None:
    torch.manual_seed(0)
    module = Together(PARTS["parts, heads, entries"])
    graph = gngraph.PassManager("head-sizes").run(gngraph.from_torch(module, torch.randn(2, 5, 6))).graph
    data = (torch.randn(64, 5, 6), torch.randint(0, 4, (64,)))
    made = gngraph.shrink(graph, data, to=0.7, params_to=0.7, epochs=0, only=("qkv",)).graph
    assert made.params["qkv.weight"].data.shape[0] in (6, 12)
    assert made.params["qkv.weight"].data.shape[0] == 3 * made.params["out.weight"].data.shape[1]
