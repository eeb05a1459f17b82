"""Networks as people write them: taken as they are, trained alike, free in every kind of width, exact in every change of one."""

from __future__ import annotations

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.handwritten_networks import NETWORKS, built
from tests.local_errors import KeptValues
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
    shares = share_in_free_spaces(graph, spaces), share_free_both_ways(graph, spaces)
    assert shares[0] >= 0.97 and shares[1] >= 0.85, shares
    assert all("(node '" in space.frozen for space in spaces if space.frozen is not None)
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        if space.tied:  # which is split by no one (docs/limits.md)
            continue
        errors = kept.errors(space.name, 0)
        found = [errors.split, errors.new, *([errors.prune] if errors.prune else [])]
        assert all(error <= BAR for error, _ in found), (space.name, found)
