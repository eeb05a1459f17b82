"""Twins of random channels: they use the room, name no channel twice, and differ by their share of the trust region."""

from __future__ import annotations

import pytest
import torch

import gngraph.baselines  # noqa: F401  (makes its rules known)
from gngraph.analysis.cost import cost
from gngraph.ir import Graph
from gngraph.lowering.to_torch import run
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import SplitChannel
from gngraph.search.allocations import ALLOCATIONS
from tests.problems import seed_graph, small_vgg
from tests.search.test_allocations import start


@pytest.mark.parametrize(("name", "most"), [("random-twins", 0.2), ("near-copies", 0.002)])
@pytest.mark.parametrize("graph", [seed_graph(), small_vgg()], ids=["mlp", "vgg"])
def test_the_room_is_used_and_not_exceeded(name: str, most: float, graph: Graph) -> None:
    own, plan = start(graph, 1.6)
    wider = morph(graph, own.spaces, list(ALLOCATIONS[name].fill(own, plan))).graph
    assert own.target.allows(cost(wider)) and cost(wider).params > 1.3 * cost(graph).params
    x = torch.randn(8, 1, 8, 8)
    change = (run(wider, x) - run(graph, x)).norm() / run(graph, x).norm()
    assert change < most


def test_twins_name_no_channel_twice_and_differ_by_their_share() -> None:
    graph = seed_graph()
    own, plan = start(graph, 1.5)
    for name, share in (("random-twins", 0.15), ("near-copies", 0.0015)):
        twins = list(ALLOCATIONS[name].fill(own, plan))
        assert len({(m.space, getattr(m, "channel", None)) for m in twins}) == len(twins) > 3
        for twin in twins:
            assert isinstance(twin, SplitChannel) and twin.d1 is not None and twin.param is not None
            row = graph.params[twin.param].data[twin.channel]
            assert float(twin.d1.norm() / row.norm()) == pytest.approx(share, rel=1e-4)
