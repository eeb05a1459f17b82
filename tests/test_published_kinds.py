"""What networks of timm do, in tiny: taken as it is, trained alike, free in every width, exact in every change of one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel
from tests.local_errors import KeptValues
from tests.published_networks import NETWORKS, built
from tests.training_steps import steps_differ

BAR = 1e-10
"""Largest relative error of a morphism in float64."""


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_taken_free_and_changed_exactly(name: str) -> None:
    network, example = built(name)
    graph = from_torch(network, example)
    assert steps_differ(network, to_torch(graph), example) == []
    with torch.no_grad():
        for parameter in network.parameters():  # zeros would hide what is wrong
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    graph = from_torch(network, example)
    spaces = ChannelSpaces.of(graph)
    reasons = [(space.name, space.size, space.frozen) for space in spaces]
    assert share_in_free_spaces(graph, spaces) > 0.97, reasons
    assert share_free_both_ways(graph, spaces) > 0.95, reasons
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        found = [errors.split, errors.new, *([errors.prune] if errors.prune else [])]
        assert all(error <= BAR for error, _ in found), (space.name, found)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_runs_at_other_sizes_after_a_change_as_before(name: str) -> None:
    network, example = built(name)
    graph, larger = from_torch(network, example), torch.randn(3, 3, 32, 24)
    spaces = ChannelSpaces.of(graph)
    torch.testing.assert_close(to_torch(graph)(larger), network.eval()(larger))
    new = morph(graph, spaces, [NewChannel(space.name) for space in spaces.free]).graph
    torch.testing.assert_close(to_torch(new)(larger), network(larger))


def test_parts_of_which_one_loses_a_channel_are_listed() -> None:
    network, example = built("a chunk of unequal parts")
    graph = from_torch(network, example)
    spaces = ChannelSpaces.of(graph)
    (chunk,) = (node for node in graph.nodes.values() if node.op == "chunk")
    assert chunk.attrs["pieces"] == (3, 3, 2)
    parts = [space for space, _, _ in spaces.layouts[chunk.inputs[0], 1]]
    new = morph(graph, spaces, [PruneChannel(parts[-1], 0), *[NewChannel(parts[-1])] * 3]).graph
    assert new.nodes[chunk.name].attrs["pieces"] == (3, 3, 4)
    assert to_torch(new)(example).shape == (2, 3)


def test_the_last_group_that_is_left_is_counted() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 1))
    example = torch.randn(2, 3, 4, 4)
    graph = from_torch(network, example)
    (groups,) = ChannelSpaces.of(graph).free
    fewer = morph(graph, ChannelSpaces.of(graph), [PruneChannel(groups.name, 0)]).graph
    assert [node.op for node in fewer.nodes.values()] == ["input", "conv2d", "whole_norm", "conv2d"]
    assert next((space.size, space.frozen) for space in ChannelSpaces.of(fewer)) == (4, None)
    again = from_torch(to_torch(fewer), example)
    assert [node.op for node in again.nodes.values()] == [node.op for node in fewer.nodes.values()]
