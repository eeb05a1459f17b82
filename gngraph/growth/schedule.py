"""How a budget is approached round by round."""

from __future__ import annotations

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, cost, sides_of
from gngraph.analysis.uncounted import uncounted
from gngraph.errors import BudgetError
from gngraph.ir import Graph
from gngraph.running.memory import total_memory

TRAINED_BYTES = 12
"""Bytes that a parameter takes while it is trained."""


def round_budgets(seed: Cost, budget: Budget, rounds: int) -> tuple[Budget, ...]:
    """What each round may use: geometric steps from the seed's cost, up or down, to the budget itself.

    Args:
        seed: cost of the network before the first round.
        budget: what the last round may use.
        rounds: how many.

    Raises:
        BudgetError: the budget is open on all sides, or there is no round.

    >>> [target.max_params for target in round_budgets(Cost(1000, 0), Budget(max_params=8000), 3)]
    [2000, 4000, 8000]
    """
    if rounds < 1:
        raise BudgetError(f"a network cannot grow in '{rounds}' rounds; give at least 1")
    if budget.sides == (None, None, None):
        raise BudgetError("growth needs a budget; give max_params, max_flops or max_latency, or several")
    both = zip(sides_of(seed), budget.sides, strict=True)
    sides = [_side(start, limit, rounds) for start, limit in both]
    return tuple(Budget(params, flops, time, clock=budget.clock) for params, flops, time in zip(*sides, strict=True))


def seed_cost(graph: Graph, budget: Budget) -> Cost:
    """What a network costs before the first round, in all that a budget may bound.

    Args:
        graph: the network.
        budget: of the run.
    """
    if budget.clock is None:
        return cost(graph)
    model = budget.model(graph, ChannelSpaces.of(graph))
    return model.of(model.widths)


def require_room(graph: Graph, budget: Budget) -> None:
    """Refuse a budget in which a seed does not fit, or that bounds FLOPs of which a part is not counted.

    Raises:
        BudgetError: with the side that is too small, or the node that computes more than its op says.
    """
    seed = cost(graph)
    for start, limit, unit in (
        (seed.params, budget.max_params, "parameters"),
        (seed.flops, budget.max_flops, "FLOPs"),
    ):
        if limit is not None and start > limit:
            raise BudgetError(
                f"the seed has {start:,} {unit}, more than the budget of {limit:,}; raise the budget, start from a smaller "
                f"seed, or make this one smaller (gngraph shrink)"
            )
    for node, counted, found in uncounted(graph) if budget.max_flops is not None else ():
        raise BudgetError(
            f"the FLOPs of the network leave out a part of node '{node}' ({graph.nodes[node].op}): it takes {2 * found:,} a "
            f"sample, of which {2 * counted:,} are counted; give its op `positions` or `products`, or bound max_params alone"
        )


def require_memory(seed: Cost, budget: Budget, device: torch.device) -> None:
    """Refuse a budget that is beyond what a device can train: weights, their gradients and a momentum, in float32.

    Args:
        seed: cost of the network before the first round, from which the parameters at a budget of FLOPs are reckoned.
        budget: what the last round may use.
        device: that trains.

    Raises:
        BudgetError: the parameters alone do not fit.
    """
    sides = [] if budget.max_params is None else [budget.max_params]
    if budget.max_flops is not None and seed.flops:
        sides.append(seed.params * budget.max_flops // seed.flops)
    most = total_memory(device)
    if sides and TRAINED_BYTES * min(sides) > most:
        raise BudgetError(
            f"the budget ({budget.text}) is for a network of some {min(sides):.3g} parameters, and to train these takes "
            f"{TRAINED_BYTES * min(sides) / 2**30:,.0f} GiB, where '{device}' has {most / 2**30:,.0f}; ask for fewer"
        )


def _side(start: int, limit: int | None, rounds: int) -> list[int | None]:
    if limit is None:
        return [None] * rounds
    base = max(1, start)
    low, high = sorted((start, limit))
    steps = (int(base * (limit / base) ** (number / rounds) + 1e-6) for number in range(1, rounds))
    return [*(min(high, max(low, step)) for step in steps), limit]
