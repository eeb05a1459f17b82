"""Round budgets grow geometrically and end at the budget."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gngraph.analysis.cost import Budget, Cost
from gngraph.errors import BudgetError
from gngraph.growth.schedule import require_room, round_budgets
from gngraph.importing.from_torch import from_torch


@given(st.integers(1, 10**7), st.integers(0, 10**9), st.integers(1, 30))
def test_targets_rise_from_the_seed_to_exactly_the_budget(seed: int, more: int, rounds: int) -> None:
    limit = seed + more
    targets = [t.max_params for t in round_budgets(Cost(seed, 1), Budget(max_params=limit), rounds)]
    assert len(targets) == rounds and targets[-1] == limit
    assert all(a is not None and b is not None and seed <= a <= b for a, b in pairwise(targets))


def test_both_sides_grow_by_their_own_factor() -> None:
    targets = round_budgets(Cost(100, 1000), Budget(400, 9000), 2)
    assert targets == (Budget(200, 3000), Budget(400, 9000))


def test_what_is_above_the_budget_comes_down_in_even_steps() -> None:
    assert round_budgets(Cost(400, 9000), Budget(100, 9000), 2) == (Budget(200, 9000), Budget(100, 9000))


@pytest.mark.parametrize(
    ("budget", "rounds", "message"),
    [
        (Budget(), 3, "needs a budget"),
        (Budget(max_params=200), 0, "'0' rounds"),
    ],
)
def test_impossible_budgets_are_refused(budget: Budget, rounds: int, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        round_budgets(Cost(100, 1000), budget, rounds)


def test_a_seed_above_the_budget_is_refused() -> None:
    seed = from_torch(nn.Linear(9, 10), torch.zeros(1, 9))
    require_room(seed, Budget(100))
    require_room(seed, Budget(100, 180))
    with pytest.raises(BudgetError, match="the seed has 100 parameters, more than the budget of 99"):
        require_room(seed, Budget(max_params=99))
    with pytest.raises(BudgetError, match="the seed has 180 FLOPs, more than the budget of 179"):
        require_room(seed, Budget(max_flops=179))
