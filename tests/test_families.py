"""Families people use: import, channel spaces and surgery on a sample of each network's spaces, in float64.

`tools/check_families.py` does the same for every free space, and for a VGG-11 and a ResNet-50.
"""

from __future__ import annotations

import pytest
import torch

from tests.families import load, round_trip_differences, sampled
from tests.morphism_errors import errors_of

FREE_SPACES = {
    "resnet18": 12,
    "densenet121": 120,
    "mobilenet_v2": 25,
    "mobilenet_v3_small": 27,
    "efficientnet_b0": 40,
}


@pytest.mark.parametrize("name", FREE_SPACES)
def test_family(name: str) -> None:
    family = load(name)
    assert round_trip_differences(family) == []
    assert len(family.spaces.free) == FREE_SPACES[name]
    graph = family.graph.to(torch.float64)
    for space in sampled(family.spaces.free, 4):
        errors = errors_of(graph, family.spaces, space.name, space.size - 1)
        assert max(errors.split, errors.new) <= 1e-12, (space.name, errors)
        assert max(errors.masked, errors.values) <= 1e-10, (space.name, errors)
