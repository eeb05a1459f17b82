"""One step of growth: what is refused, what is applied, and how wrong a joint prediction may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.errors import BudgetError
from gngraph.importing.from_torch import from_torch
from gngraph.rewrite.morphism import NewChannel, SplitChannel
from gngraph.scoring.gauss_newton import Moments
from gngraph.scoring.selection import Selection
from gngraph.search.situation import Plan
from gngraph.search.step import Change, apply, standard_error


@pytest.mark.parametrize(
    ("predicted", "error", "actual", "broken"),
    [
        (-0.5, 0.1, -0.31, False),  # it falls by less than predicted
        (-0.5, 0.1, -0.29, False),  # beyond the interval, but it falls
        (-0.5, 0.1, 0.001, False),  # a rise that is noise: a thousandth of the loss is .002
        (-0.5, 0.1, 0.003, True),
        (0.1, 0.05, 0.19, False),  # a rise that was predicted: .1 and twice .05
        (0.1, 0.05, 0.21, True),
        (-0.1, 0.06, 0.019, False),  # what the interval reaches above 0
        (-0.1, 0.06, 0.021, True),
    ],
)
def test_a_rise_beyond_the_interval_and_noise_is_broken(
    predicted: float, error: float, actual: float, broken: bool
) -> None:
    change = Change(predicted, error, before=2.0, after=2.0 + actual)
    assert change.actual == pytest.approx(actual)
    assert change.broken is broken


def test_what_would_exceed_the_budget_is_refused_and_all_else_applied() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = from_torch(net, torch.zeros(2, 3))  # 26 parameters, 6 a channel; 40 FLOPs, 10 a channel
    spaces, generator = ChannelSpaces.of(graph), torch.Generator().manual_seed(0)
    none = Selection((), 0.0, 0.0, {"0": 4, "2": 2}, cost(graph), frozenset())
    plan = Plan(none, (SplitChannel("0", 1),), (NewChannel("0"),))
    step = apply(graph, spaces, plan, Budget(38, 60), generator)
    assert step.morphisms == (*plan.learned, *plan.exact)
    assert (cost(step.rewritten.graph).params, cost(step.rewritten.graph).flops) == (38, 60)
    torch.testing.assert_close(
        step.rewritten.graph.params["0.weight"].data[:5], graph.params["0.weight"].data[[0, 1, 2, 3, 1]]
    )
    with pytest.raises(
        BudgetError, match="has 38 parameters and 60 FLOPs, beyond the budget of 37 parameters; the round"
    ):
        apply(graph, spaces, plan, Budget(37), generator)
    with pytest.raises(BudgetError, match="beyond the budget of 38 parameters and 59 FLOPs"):
        apply(graph, spaces, plan, Budget(38, 59), generator)


def test_the_error_of_a_set_is_that_of_its_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    moments = Moments(torch.randn(40, 5, generator=generator), torch.randn(3, 40, 5, generator=generator))
    for chosen in ([0], [1, 3], [0, 1, 2, 3, 4]):
        whole = Moments(moments.s[:, chosen].sum(1, keepdim=True), moments.q[:, :, chosen].sum(2, keepdim=True))
        assert standard_error(moments, chosen) == pytest.approx(float(whole.total_errors()))
    apart = moments.total_errors()[[1, 3]].square().sum().sqrt()
    assert standard_error(moments, [1, 3]) != pytest.approx(float(apart), rel=0.02)  # they share their samples


def test_a_change_beyond_the_interval_is_one_that_is_no_noise_either() -> None:
    assert Change(-0.2, 0.05, before=2.0, after=1.69).beyond
    assert not Change(-0.2, 0.05, before=2.0, after=1.71).beyond
    assert not Change(0.0, 0.0, before=2.0, after=2.0019).beyond and Change(0.0, 0.0, before=2.0, after=2.0021).beyond
