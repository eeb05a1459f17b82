"""The comparison of two graphs: zero for equals, the true difference else, never fooled by shapes or infinities."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.probe import probe_of
from gngraph.ops import draft_of
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from tests.small_networks import NETWORKS, build, imported


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_equals_itself_and_its_copy_but_no_other_weights(name: str) -> None:
    graph = imported(name)
    assert relative_error(graph, graph) == relative_error(graph, draft_of(graph).commit()) == 0.0
    weight = next(key for key, p in graph.params.items() if p.data.dim() > 1)
    moved = graph.with_params({weight: graph.params[weight].data * 1.001})
    assert 1e-8 < relative_error(graph, moved) < 1.0


def test_the_error_is_relative_to_the_largest_output() -> None:
    net = nn.Linear(2, 2, bias=False)
    graph = from_torch(net, torch.zeros(2, 2))
    twice = graph.with_params({"weight": graph.params["weight"].data * 2})
    assert relative_error(graph, twice) == pytest.approx(1.0, abs=1e-12)
    assert 1e-6 < relative_error(graph, twice, probe=(torch.full((2, 2), 1e-6),)) < 1e-2  # small, but wrong as it is


def test_what_cancels_to_rounding_is_no_difference() -> None:
    net = nn.Sequential(nn.InstanceNorm1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    graph = from_torch(net.eval(), torch.zeros(2, 2, 5))
    (outputs,) = outputs64(graph, probe_of(graph))
    assert 0.0 < outputs.abs().max() < 1e-14
    turned = graph.with_params({"3.weight": -graph.params["3.weight"].data})
    assert relative_error(graph, turned) < 1e-12


def test_float32_rounding_does_not_hide_a_change() -> None:
    graph = from_torch(nn.Linear(2, 2, bias=False), torch.zeros(2, 2)).to(torch.float64)
    moved = graph.with_params({"weight": graph.params["weight"].data * (1 + 1e-12)})
    assert relative_error(graph, moved) == pytest.approx(1e-12, rel=0.01)


def test_a_difference_in_the_second_of_several_outputs_is_seen() -> None:
    graph = imported("two outputs")
    moved = graph.with_params({"b.bias": graph.params["b.bias"].data + 1.0})
    assert len(outputs64(graph, probe_of(graph))) == 3
    assert relative_error(graph, moved) > 0.01


def test_other_shapes_and_numbers_that_are_not_finite_are_infinitely_wrong() -> None:
    two, three = (from_torch(nn.Linear(2, width), torch.zeros(2, 2)) for width in (2, 3))
    assert relative_error(two, three) == float("inf")
    broken = two.with_params({"bias": torch.tensor([0.0, float("nan")])})
    assert relative_error(two, broken) == relative_error(broken, two) == float("inf")


class Lookup(nn.Module):
    """An integer input and a floating-point one."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, token: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(token) * scale)  # type: ignore[no-any-return]


def test_a_probe_has_the_types_of_the_inputs() -> None:
    graph = from_torch(Lookup(), (torch.zeros(2, dtype=torch.int64), torch.ones(2, 4)))
    token, scale = probe_of(graph)
    assert token.dtype == torch.int64 and token.min() >= 0 and token.max() < 7
    assert scale.dtype == torch.float64 and scale.shape == (2, 4)
    assert torch.equal(scale, probe_of(graph)[1])
    assert relative_error(graph, graph) == 0.0


def test_mean_loss_is_the_mean_over_samples_in_eval_mode() -> None:
    module, _ = build("plain")
    x, y = torch.randn(23, 3, 8, 8), torch.arange(23) % 3
    problem = Problem((x, y), batch_size=5, device="cpu")
    with torch.no_grad():
        expected = nn.functional.cross_entropy(module(x), y)
    assert mean_loss(from_torch(module, x[:2]), problem, problem.samples) == pytest.approx(float(expected), rel=1e-5)
