"""A budget of milliseconds while a network grows: predicted from networks that were timed, and measured after every rewrite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gngraph.analysis.cost import NANOSECONDS, Budget
from gngraph.errors import BudgetError
from gngraph.growth.history import Record
from gngraph.ir import Graph
from gngraph.latency import LatencyClock
from gngraph.latency.clock import Measured
from gngraph.search.decision import Decision
from gngraph.search.situation import Situation

TRIES = 4
"""How often a rewrite is decided, each time by other prices, until its network takes nearly as long as it may; where none yet took
less, the last time by what the network took before."""

CLOSE, AIM = 0.9, 0.95
"""Shares of the time: what is near enough, and what prices that proved wrong are corrected to."""


@dataclass(frozen=True, eq=False)
class _Try:
    """A decision within some milliseconds by the prices, whose network took so many."""

    within: float
    made: Decision
    found: Measured


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

    Where it takes longer all the same, or leaves much of the time, the round that is to reach the budget is decided anew, by prices
    that are corrected for it. What counts is the slowest network within the time; where there is none, the fastest.

    Args:
        decide: makes a decision.
        situation: what it is about.
        clock: measures.
    """
    limit = situation.target.max_nanoseconds
    assert limit is not None
    asked, last = limit / NANOSECONDS, situation.target == situation.budget
    before = clock.anchor(situation.graph).milliseconds

    def tried(within: float) -> _Try:
        made = decide(_within(situation, within))
        return _Try(within, made, clock.measured(made.step.rewritten.graph))

    try:
        tries = [tried(asked)]
    except BudgetError:
        # the network itself is above, were it by noise, and not enough can be removed: it may stay as it is
        model = situation.model
        tries = [tried(max(asked, model.of(model.widths).nanoseconds / NANOSECONDS))]
    while last and len(tries) < TRIES:
        fits, slow = _parted(tries, asked)
        if fits and fits[-1].found.milliseconds >= CLOSE * asked:
            break
        if fits and not slow and clock.predicted(fits[-1].made.step.rewritten.graph) < CLOSE * fits[-1].within:
            break  # it is not the time that bounds it
        try:
            tries.append(tried(_next_within(asked, before, tries)))
        except BudgetError:  # it cannot be narrowed further
            break
    fits, slow = _parted(tries, asked)
    chosen = fits[-1] if fits else slow[0]
    return chosen.made, {
        "setting": clock.setting.text,
        "before": before,
        "asked": asked,
        "predicted": clock.predicted(chosen.made.step.rewritten.graph),
        "measured": chosen.found.milliseconds,
        "noise": chosen.found.noise,
        "tries": len(tries),
        "last": last,
    }


def _parted(tries: Sequence[_Try], asked: float) -> tuple[list[_Try], list[_Try]]:
    """Those within the time and those beyond it, the fastest first."""
    ordered = sorted(tries, key=lambda one: one.found.milliseconds)
    return [t for t in ordered if t.found.milliseconds <= asked], [t for t in ordered if t.found.milliseconds > asked]


def _next_within(asked: float, before: float, tries: Sequence[_Try]) -> float:
    fits, slow = _parted(tries, asked)
    if fits and slow:
        below, above = fits[-1], slow[0]
        share = (AIM * asked - below.found.milliseconds) / (above.found.milliseconds - below.found.milliseconds)
        return below.within + share * (above.within - below.within)
    nearest = fits[-1] if fits else slow[0]
    corrected = AIM * nearest.within * asked / nearest.found.milliseconds
    return min(corrected, before) if slow and len(tries) + 1 == TRIES else corrected


def _within(situation: Situation, milliseconds: float) -> Situation:
    limit = round(milliseconds * NANOSECONDS)
    target = replace(situation.target, max_nanoseconds=limit)
    last = situation.target == situation.budget
    return replace(situation, target=target, budget=target if last else situation.budget)


def timing_note(timed: Record) -> list[str]:
    """What is to be told of a network that takes longer than it may, in all tries."""
    if not timed["last"] or timed["measured"] <= timed["asked"] + timed["noise"]:
        return []
    return [
        f"the network takes {timed['measured']:.3g} ms where {timed['asked']:.3g} were asked for: none that is faster was found in "
        f"{timed['tries']} tries"
    ]
