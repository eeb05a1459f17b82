"""How a budget is approached round by round."""

from __future__ import annotations

from gngraph.analysis.cost import Budget, Cost
from gngraph.errors import BudgetError


def round_budgets(seed: Cost, budget: Budget, rounds: int) -> tuple[Budget, ...]:
    """What each round may use: geometric growth from the seed's cost, the last round being the budget itself.

    Raises:
        BudgetError: the budget is open on both sides or below the seed's cost, or there is no round.

    >>> [target.max_params for target in round_budgets(Cost(1000, 0), Budget(max_params=8000), 3)]
    [2000, 4000, 8000]
    """
    if rounds < 1:
        raise BudgetError(f"a network cannot grow in '{rounds}' rounds; give at least 1")
    if budget.max_params is None and budget.max_flops is None:
        raise BudgetError("growth needs a budget; give max_params, max_flops or both")
    params = _side(seed.params, budget.max_params, rounds, "parameters")
    flops = _side(seed.flops, budget.max_flops, rounds, "FLOPs")
    return tuple(Budget(p, f) for p, f in zip(params, flops, strict=True))


def _side(start: int, limit: int | None, rounds: int, unit: str) -> list[int | None]:
    if limit is None:
        return [None] * rounds
    if start > limit:
        raise BudgetError(
            f"the seed has {start:,} {unit}, more than the budget of {limit:,}; "
            "raise the budget or start from a smaller seed"
        )
    base = max(1, start)
    between: list[int | None] = [
        max(start, int(base * (limit / base) ** (number / rounds) + 1e-6)) for number in range(1, rounds)
    ]
    return [*between, limit]
