"""Widths that stand in a forward as numbers follow the channel spaces, and morphisms of them stay exact."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphism import NewChannel, SplitChannel
from tests.morphism_errors import applied, errors_of
from tests.width_networks import NETWORKS, build


@cache
def imported(name: str) -> Graph:
    return from_torch(*build(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_spaces_are_free_and_every_morphism_is_exact(name: str) -> None:
    graph = imported(name)
    spaces = ChannelSpaces.of(graph)
    assert {space.name: space.size for space in spaces.free} == NETWORKS[name][2], [
        (s.name, s.size, s.frozen) for s in spaces
    ]
    for space in spaces.free:
        for channel in {0, space.size - 1}:
            errors = errors_of(graph, spaces, space.name, channel)
            assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space.name, channel, errors)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_spaces_at_once_then_again_and_out(name: str) -> None:
    _, example = build(name)
    first = graph = imported(name).to(torch.float64)
    for _ in range(2):
        spaces = ChannelSpaces.of(graph)
        graph = applied(graph, spaces, [m for s in spaces.free for m in (SplitChannel(s.name, 0), NewChannel(s.name))])
    assert relative_error(first, graph) < 1e-12
    assert {s.name: s.size for s in ChannelSpaces.of(graph).free} == {k: v + 4 for k, v in NETWORKS[name][2].items()}
    assert same_structure(parse(format_graph(graph)), graph)
    again = from_torch(to_torch(graph.to(torch.float32)), example)
    assert {s.size for s in ChannelSpaces.of(again).free} == {s.size for s in ChannelSpaces.of(graph).free}
