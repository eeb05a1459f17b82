"""Allocation: how wide every channel space is to be under a budget, by what its width is worth.

What the width n of a space of worth w costs is modelled as w / n^2, and the sum over the spaces is made least. Width is counted in
entries that layers write, so that a head is worth what its channels are. Where every layer is worth the same the best widths under
a budget of parameters are nearly uniform, and under a budget of FLOPs a flat pyramid that widens as the resolution falls; what was
measured (`gngraph.search.worth`) moves them from there.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType

from gngraph.analysis.channels import ChannelSpace, Role
from gngraph.analysis.cost import Budget, Cost, CostModel, sides_of

POWER = 2
"""Power of the width in the loss that it costs: the greater, the nearer to uniform are the widths where FLOPs are scarce
(docs/results.md#widths)."""

TRADES = 9
"""Trade-offs between two sides of a budget (parameters, FLOPs, milliseconds) that are tried where both are bounded; of three, fewer
for each two."""

TRUST = 0.75
"""Power to which measured worths are taken: from 0, where all layers are worth the same, to 1, where the measurement is believed.

Around a sensible design the loss is flat, so the noise of a measurement must not lead far from there."""

FLOOR = 0.1
"""Least worth of a layer, as a share of the mean: that more width is worth nothing holds for the network as it is."""


def worths(measured: Mapping[str, float], spaces: Sequence[ChannelSpace]) -> dict[str, float]:
    """What the width of each space, in channels, is worth: on average about 1 for each layer that writes it, for width in entries.

    Measured is the worth for each writer, in units of its mean and not below `FLOOR`, to the power `TRUST`; where nothing is
    known it is 1. A residual stream is written by many layers, and costs as much more: where nothing is known of any space
    its best width is that of the layers inside the blocks, as people build them.

    Args:
        measured: space -> worth that was measured for its width in entries, in any unit.
        spaces: whose worth is asked.
    """
    writers = {space.name: max(1, len(space.nodes(Role.PRODUCE))) for space in spaces}
    known = {name: max(0.0, measured[name]) / count for name, count in writers.items() if name in measured}
    mean = sum(known.values()) / max(1, len(known))
    shares = {name: max(FLOOR, known.get(name, mean) / mean) if mean > 0 else 1.0 for name in writers}
    return {s.name: writers[s.name] * shares[s.name] ** TRUST / s.inner**POWER for s in spaces}


def allocated(
    model: CostModel,
    start: Mapping[str, int],
    worth: Mapping[str, float],
    budget: Budget,
    cost: Cost | None = None,
    *,
    steps: Mapping[str, int] = MappingProxyType({}),
    most: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Widths within a budget, none below `start`, for which the sum of worth / width^`POWER` over the spaces of `worth` is least.

    Channels are given one by one where they lower that sum most for their cost. Where several sides are bounded that depends on
    what one is worth in units of the other, and the best of `TRADES` such prices counts. Ties go to the space that is named first.

    Args:
        model: prices channels.
        start: width of every space, by name.
        worth: of the spaces that may grow.
        budget: bounded on one side at least.
        cost: of the network at `start`, where the model alone does not say it (a layer that is to be inserted).
        steps: space -> what a width that grows is a multiple of; where there is none, 1.
        most: space -> the width that it does not grow beyond, be that a multiple or not; where there is none, there is no such.
    """
    bounded = [side is not None for side in budget.sides]
    fineness = {1: 1, 2: TRADES - 1, 3: TRADES // 2}[sum(bounded)]
    lattice = (parts for parts in product(range(fineness + 1), repeat=len(bounded)) if sum(parts) == fineness)
    shares = [
        tuple(part / fineness for part in parts)
        for parts in lattice
        if all(part == 0 or one for part, one in zip(parts, bounded, strict=True))
    ]
    found = [_filled(model, start, worth, budget, share, cost or model.of(start), steps, most) for share in shares]
    return min(found, key=lambda widths: sum(w / widths[name] ** POWER for name, w in worth.items()))


def raised(width: int, step: int) -> int:
    """The next multiple of `step` above a width.

    >>> raised(8, 8), raised(9, 8), raised(3, 1)
    (16, 16, 4)
    """
    return (width // step + 1) * step


def _filled(
    model: CostModel,
    start: Mapping[str, int],
    worth: Mapping[str, float],
    budget: Budget,
    share: tuple[float, ...],
    cost: Cost,
    steps: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    now, names = dict(start), list(worth)
    # The value of a channel for its cost only falls as the network grows, so what was computed earlier bounds it from above: the
    # first of the queue is the best of all when it has not fallen. And what does not fit now never will.
    queue = [(-float("inf"), i) for i in range(len(names))]
    while queue:
        bound, i = queue[0]
        name = names[i]
        n = now[name]
        wider = raised(n, steps.get(name, 1))
        wider = min(wider, most.get(name, wider))
        marginal = model.marginal(name, now, wider - n)
        rank = -worth[name] * (n**-POWER - wider**-POWER) / max(_price(marginal, budget, share), 1e-30)
        if wider <= n or not budget.allows(cost + marginal):
            heapq.heappop(queue)
        elif rank > bound:
            heapq.heapreplace(queue, (rank, i))
        else:
            now[name] = wider
            cost += marginal
    return now


def _price(marginal: Cost, budget: Budget, share: tuple[float, ...]) -> float:
    """Cost as a share of the budget, of which each side counts for its share."""
    sides = zip(share, sides_of(marginal), budget.sides, strict=True)
    return sum(part * side / (most or 1) for part, side, most in sides)
