"""Each op in a small network: exact morphisms of every space that is free, and round trips."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.files import archive
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.rewrite.morphism import NewChannel, SplitChannel
from gngraph.source.export import to_source
from tests.coverage_row import round_trip_differences
from tests.morphism_errors import applied, errors_of
from tests.op_networks import CASES, build


@cache
def imported(name: str) -> Graph:
    return from_torch(*build(name))


@pytest.mark.parametrize("name", CASES)
def test_free_spaces_and_exact_morphisms(name: str) -> None:
    graph = imported(name)
    assert tuple(n.attrs["target"] for n in graph.nodes.values() if n.op == "foreign") == CASES[name].foreign
    spaces = ChannelSpaces.of(graph)
    assert {s.name: s.size for s in spaces.free} == CASES[name].free, [(s.name, s.size, s.frozen) for s in spaces]
    assert all(space.frozen is None or space.frozen.isprintable() for space in spaces)
    for space in spaces.free:
        for channel in {0, space.size - 1}:
            errors = errors_of(graph, spaces, space.name, channel)
            assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space.name, channel, errors)


@pytest.mark.parametrize("name", CASES)
def test_round_trips(name: str, tmp_path: Path) -> None:
    network, example = build(name)
    graph = imported(name)
    assert round_trip_differences(network, example, graph) == []
    grown = graph
    for _ in range(2):  # what grew once must grow again
        spaces = ChannelSpaces.of(grown)
        grown = applied(grown, spaces, [m for s in spaces.free for m in (SplitChannel(s.name, 0), NewChannel(s.name))])
    assert relative_error(graph, grown.to(torch.float64)) < 1e-5
    for each in (graph, grown):
        archive.save(each, tmp_path / "graph.gng")
        assert same_structure(archive.load(tmp_path / "graph.gng"), each)
        assert same_structure(parse(format_graph(each)), each)
        to_source(each)  # proves that what it writes computes the same
