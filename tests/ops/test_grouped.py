"""Products with the weights of experts: taken, trained alike, and of any width, though torch's kernel takes few."""

from __future__ import annotations

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.analysis.share import share_free_both_ways
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel
from tests.expert_networks import Experts
from tests.local_errors import KeptValues
from tests.training_steps import Trial

ROUNDING = 1e-5


def imported(transposed: bool) -> tuple[Experts, torch.Tensor, Graph]:
    torch.manual_seed(0)
    network, x = Experts(transposed), torch.randn(2, 7, 5)
    return network, x, from_torch(network, x)


@pytest.mark.parametrize("transposed", [True, False])
def test_experts_are_taken_free_and_changed_exactly(transposed: bool) -> None:
    network, x, graph = imported(transposed)
    assert [node.op for node in graph.nodes.values()].count("grouped_linear") == 2
    spaces = ChannelSpaces.of(graph)
    assert sorted(space.size for space in spaces.free) == [8, 12]
    assert share_free_both_ways(graph, spaces) >= 0.85
    kept, model = KeptValues(graph, spaces), CostModel(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        assert all(found.error <= 1e-10 for found in (errors.split, errors.new, errors.prune) if found), space.name
        more = morph(graph, spaces, [NewChannel(space.name)]).graph
        assert cost(more) == cost(graph) + model.marginal(space.name, model.widths)
    trial = Trial([[x], [torch.cat([x, x[:1]])]], dtype=None, tolerance=1e-4)
    assert list(trial.differences(network, to_torch(graph))) == []


@pytest.mark.parametrize("transposed", [True, False])
def test_rows_that_are_no_whole_16_bytes_are_filled_up(transposed: bool) -> None:
    _, x, graph = imported(transposed)
    spaces = ChannelSpaces.of(graph)
    changes = [PruneChannel(space.name, channel) for space in spaces.free for channel in (0, 3)]
    odd = morph(graph, spaces, [*changes, *(NewChannel(space.name) for space in spaces.free)]).graph
    assert {space.size for space in ChannelSpaces.of(odd).free} == {7, 11}
    found = []
    for dtype in (torch.float32, torch.float64):
        module = to_torch(odd.to(dtype)).train()
        y = module(x.to(dtype))
        y.square().sum().backward()
        found.append([y.double(), *(p.grad.double() for p in module.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=ROUNDING, atol=ROUNDING)
    half = to_torch(odd.to(torch.bfloat16))(x.bfloat16())
    assert half.dtype is torch.bfloat16 and half.isfinite().all()


def test_experts_without_rows_give_nothing() -> None:
    _, x, graph = imported(True)
    with torch.no_grad():
        graph.params["gate.bias"].data.copy_(torch.tensor([50.0, 60.0, -50.0, -60.0]))  # two of four for every token
        narrow, wide = to_torch(graph)(x), to_torch(graph.to(torch.float64))(x.double())
    torch.testing.assert_close(narrow.double(), wide, rtol=ROUNDING, atol=ROUNDING)
