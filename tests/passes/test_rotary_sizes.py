"""Sizes of heads that a rotary position turns: pairs of entries of all that share the table, which come and go with their angle."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.files.archive import load, save
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.zoo import build_seed
from tests.local_errors import relative
from tests.merge_errors import MergedValues
from tests.morphism_errors import errors_of


class Turned(nn.Module):
    """Attention over [N, 5, 6] whose queries and keys, [N, heads, 5, 6], are turned by a function of module and value."""

    speeds: Tensor
    cos_angles: Tensor
    sin_angles: Tensor
    cos_twice: Tensor
    sin_twice: Tensor

    def __init__(self, turn: Callable[[Turned, Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(6, 12), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 6)
        self.head, self.turn = nn.Linear(6, 4), turn
        self.register_buffer("speeds", 10.0 ** -torch.arange(3.0), persistent=False)
        angles = torch.arange(5.0).unsqueeze(1) * self.speeds
        for name, table in (("angles", angles), ("twice", torch.cat([angles, angles], -1))):
            self.register_buffer(f"cos_{name}", table.cos())
            self.register_buffer(f"sin_{name}", table.sin())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(len(x), 5, -1, 6).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (y.repeat_interleave(2, 1) for y in (self.turn(self, k), v))
        y = F.scaled_dot_product_attention(self.turn(self, q), k, v).transpose(1, 2).reshape(len(x), 5, 12)
        out: Tensor = self.head((x + self.out(y)).relu().mean(1))
        return out


def rotate_half(x: Tensor) -> Tensor:
    return torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1)


def by_table(m: Turned, x: Tensor) -> Tensor:
    return m.cos_twice * x + rotate_half(x) * m.sin_twice


def by_halves(m: Turned, x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * m.cos_angles - b * m.sin_angles, a * m.sin_angles + b * m.cos_angles], -1)


def by_speeds(m: Turned, x: Tensor) -> Tensor:
    angles = torch.arange(x.shape[-2]).unsqueeze(1) * m.speeds
    angles = torch.cat([angles, angles], -1)
    return x * angles.cos() + rotate_half(x) * angles.sin()


TURNS = {"by table": by_table, "by halves": by_halves, "by speeds": by_speeds}
TABLES = {"by table": "cos_twice", "by halves": "cos_angles", "by speeds": "speeds"}


@cache
def turned(name: str) -> Graph:
    """A float64 graph with head sizes."""
    torch.manual_seed(0)
    graph = gngraph.from_torch(Turned(TURNS[name]).eval(), torch.randn(2, 5, 6))
    return gngraph.PassManager("head-sizes").run(graph).graph.to(torch.float64)


def pairs_of(graph: Graph) -> str:
    """The space of queries and keys."""
    spaces = ChannelSpaces.of(graph)
    (name,) = (space.name for space in spaces.free if any(slot.across for slot in space.slots))
    return name


@pytest.mark.parametrize("name", TURNS)
def test_pairs_come_and_go_exactly(name: str) -> None:
    graph = turned(name)
    spaces, pairs = ChannelSpaces.of(graph), pairs_of(graph)
    assert spaces[pairs].size == 3 and spaces["v"].size == 6 and spaces["v"].frozen is None
    for channel in (0, 2):
        errors = errors_of(graph, spaces, pairs, channel)
        assert max(errors.split, errors.new, errors.masked, errors.values) <= 1e-12
        merged = MergedValues(graph, spaces).merged(pairs, channel)
        assert merged is not None and merged.error <= 1e-12


@pytest.mark.parametrize("name", TURNS)
def test_a_pair_has_an_angle_of_its_own(name: str, tmp_path: Path) -> None:
    graph = turned(name)
    pairs, table = pairs_of(graph), TABLES[name]
    changes: list[Morphism] = [PruneChannel(pairs, 1), SplitChannel(pairs, 2), NewChannel(pairs)]
    new = morph(graph, ChannelSpaces.of(graph), changes).graph
    columns = [0, 2, 2, 0]  # a new pair is turned as one that was there
    before, after = (g.params[table].data for g in (graph, new))
    places = [*columns, *(c + 3 for c in columns)] if before.shape[-1] == 6 else columns
    assert torch.equal(after, before[..., places])
    example = torch.randn(2, 5, 6, dtype=torch.float64)
    save(new, tmp_path / "new.gng")
    again = gngraph.PassManager("head-sizes").run(gngraph.from_torch(to_torch(new), example)).graph
    assert ChannelSpaces.of(again)[pairs_of(again)].size == 4
    for other in (again, load(tmp_path / "new.gng")):
        assert torch.equal(outputs64(other, (example,))[0], outputs64(new, (example,))[0])


def test_a_table_that_all_blocks_share_is_of_one_space() -> None:
    torch.manual_seed(0)
    seed = build_seed("gpt{norm=rms,positions=rotary,queries=2}", width=0.25, classes=11, input_shape=(6,))
    words = torch.randint(0, 11, (2, 6))
    graph = gngraph.PassManager("head-sizes").run(gngraph.from_torch(seed.eval(), words)).graph.to(torch.float64)
    spaces, pairs = ChannelSpaces.of(graph), pairs_of(graph)
    shared = {slot.param for slot in spaces[pairs].slots}
    assert pairs == "angles" and {f"blocks.{i}.attention.qkv.weight" for i in range(4)} <= shared
    grown = morph(graph, spaces, [NewChannel(pairs), SplitChannel(pairs, 3)]).graph
    assert relative(outputs64(grown, (words,)), outputs64(graph, (words,))) <= 1e-12
    assert grown.params["angles"].data.shape == (36,)
    fewer = morph(grown, ChannelSpaces.of(grown), [PruneChannel(pairs, 17)]).graph
    assert relative(outputs64(fewer, (words,)), outputs64(graph, (words,))) <= 1e-12


def test_entries_that_are_not_turned_are_a_space_of_their_own() -> None:
    class InPart(Turned):
        def __init__(self) -> None:
            super().__init__(lambda m, x: torch.cat([by_halves(m, x[..., :4]), x[..., 4:]], -1))
            for name in ("cos_angles", "sin_angles"):
                self.register_buffer(name, getattr(self, name)[:, :2])

    torch.manual_seed(0)
    graph = gngraph.from_torch(InPart().eval(), torch.randn(2, 5, 6))
    graph = gngraph.PassManager("head-sizes").run(graph).graph.to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    found = [space for space in spaces.free if any(slot.across for slot in space.slots)]
    assert [space.size for space in found] == [2, 2]
    for space in found:
        errors = errors_of(graph, spaces, space.name, 1)
        assert max(errors.split, errors.new, errors.masked, errors.values) <= 1e-12


def test_a_shrink_takes_pairs() -> None:
    graph = turned("by table").to(torch.float32)
    data = (torch.randn(64, 5, 6), torch.randint(0, 4, (64,)))
    made = gngraph.shrink(graph, data, to=0.8, params_to=0.8, epochs=0, only=(pairs_of(graph),)).graph
    rows, table = made.params["k.weight"].data.shape[0], made.params["cos_twice"].data
    assert rows in (2, 4) and table.shape == (5, rows)
