"""A budget of milliseconds while a network grows: predicted from networks that were timed, and measured after every rewrite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gngraph.analysis.cost import NANOSECONDS, Budget
from gngraph.errors import BudgetError
from gngraph.growth.history import Record
from gngraph.ir import Graph
from gngraph.latency import LatencyClock
from gngraph.search.decision import Decision
from gngraph.search.situation import Situation

NARROWINGS = 3
"""How often a rewrite is decided once more, within less, where the network takes longer than it may; the last time within what it
took before."""

CAUTIOUS = 0.99
"""Share of the time to which that is corrected."""


def timed_budget(graph: Graph, budget: Budget, milliseconds: float, clock: LatencyClock) -> Budget:
    """A budget that is one of milliseconds too.

    Args:
        graph: the seed network.
        budget: on its other sides.
        milliseconds: of a batch, at most.
        clock: that they are told by.

    Raises:
        BudgetError: the seed takes longer.
        GnGraphError: the runtime does not take it.
    """
    found = clock.anchor(graph)
    if found.milliseconds > milliseconds:
        raise BudgetError(
            f"the seed takes {found.milliseconds:.3g} ms ({clock.setting.text}), longer than the budget of {milliseconds:.4g}; "
            f"raise the budget, or start from a smaller seed"
        )
    return replace(budget, max_nanoseconds=round(milliseconds * NANOSECONDS), clock=clock)


def clock_in(budget: Budget) -> LatencyClock | None:
    """What measures milliseconds; None where they are not bounded."""
    return budget.clock if isinstance(budget.clock, LatencyClock) else None


def decided_in_time(
    decide: Callable[[Situation], Decision], situation: Situation, clock: LatencyClock
) -> tuple[Decision, Record]:
    """A decision whose network takes no longer than it may, and what was predicted and measured of it.

    Where it does all the same, the round that is to reach the budget is decided once more, within less.

    Args:
        decide: makes a decision.
        situation: what it is about.
        clock: measures.
    """
    limit = situation.target.max_nanoseconds
    assert limit is not None
    asked, last = limit / NANOSECONDS, situation.target == situation.budget
    before = clock.anchor(situation.graph).milliseconds
    within, narrowed = asked, 0
    try:
        made = decide(_within(situation, within))
    except BudgetError:
        # the network itself is above, were it by noise, and not enough can be removed: it may stay as it is
        model = situation.model
        within = max(within, model.of(model.widths).nanoseconds / NANOSECONDS)
        made = decide(_within(situation, within))
    while True:
        graph = made.step.rewritten.graph
        predicted, found = clock.predicted(graph), clock.measured(graph)
        if found.milliseconds <= asked or not last or narrowed == NARROWINGS:
            break
        shorter = min(within * CAUTIOUS, within * CAUTIOUS * asked / found.milliseconds)
        within = min(shorter, before) if narrowed + 1 == NARROWINGS else shorter
        try:
            made, narrowed = decide(_within(situation, within)), narrowed + 1
        except BudgetError:  # it cannot be narrowed further
            break
    return made, {
        "setting": clock.setting.text,
        "before": before,
        "asked": asked,
        "predicted": predicted,
        "measured": found.milliseconds,
        "noise": found.noise,
        "narrowed": narrowed,
        "last": last,
    }


def _within(situation: Situation, milliseconds: float) -> Situation:
    limit = round(milliseconds * NANOSECONDS)
    target = replace(situation.target, max_nanoseconds=limit)
    last = situation.target == situation.budget
    return replace(situation, target=target, budget=target if last else situation.budget)


def timing_note(timed: Record) -> list[str]:
    """What is to be told of a network that takes longer than it may, though narrowed."""
    if not timed["last"] or timed["measured"] <= timed["asked"] + timed["noise"]:
        return []
    return [
        f"the network takes {timed['measured']:.3g} ms where {timed['asked']:.3g} were asked for: as far as it was narrowed, none "
        f"was found that is faster"
    ]
