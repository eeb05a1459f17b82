"""Where a round's budget goes that no learned morphism uses: the rules by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gngraph.analysis.channels import ChannelSpace
from gngraph.analysis.cost import Cost
from gngraph.errors import PassError
from gngraph.rewrite.morphism import Morphism, NewChannel
from gngraph.scoring.selection import Selection
from gngraph.search.situation import Plan, Situation
from gngraph.search.widths import allocated, raised, worths


class Allocation(Protocol):
    """What becomes of a round's budget.

    Attributes:
        measures: whether it asks what widths are worth, which costs an analysis of its own.
    """

    measures: ClassVar[bool]

    def widths(self, situation: Situation, plan: Plan) -> Mapping[str, int] | None:
        """Widths that the round is to reach; None where the rule names none, and whatever is learned fits."""
        ...

    def fill(self, situation: Situation, plan: Plan) -> Iterable[Morphism]:
        """Function-preserving morphisms (or nearly so) that use up what a plan leaves of the round's budget, and never more."""
        ...


@dataclass(frozen=True)
class Nothing:
    """The network keeps to what was learned, and may end far below its budget."""

    measures: ClassVar[bool] = False

    def widths(self, situation: Situation, plan: Plan) -> None:
        """None: every candidate may be chosen."""

    def fill(self, situation: Situation, plan: Plan) -> Iterable[Morphism]:
        """Nothing."""
        return ()


TOLERANCE = 1.25
"""Factor by which a space may be wider than the budget wants it before channels are removed: worths are measured, and noisy."""


@dataclass(frozen=True)
class ByWorth:
    """The widths that the worths of the spaces ask for; see `gngraph.search.widths`."""

    measures: ClassVar[bool] = True

    def widths(self, situation: Situation, plan: Plan) -> Mapping[str, int]:
        """The best widths for the round.

        In the round that is to reach the budget, a space whose channels the analysis can remove becomes as narrow as the
        budget wants it, where it is much wider. Earlier than that, wants are small and worths uncertain.
        """
        names = plan.open(situation.spaces)
        worth = self._worths(situation, names)
        least = dict(plan.selection.widths)
        if situation.target == situation.budget:
            narrow = {name: min(least[name], situation.steps.get(name, 1)) for name in names}
            best = allocated(
                situation.model, {**least, **narrow}, worth, situation.budget, steps=situation.steps, most=plan.most
            )
            fits = situation.budget.allows(plan.selection.cost)
            wide = {n for n in plan.removable if n in worth and least[n] > best[n] * (TOLERANCE if fits else 1)}
            least |= {name: best[name] for name in wide}
        return allocated(situation.model, least, worth, situation.target, steps=situation.steps, most=plan.most)

    def fill(self, situation: Situation, plan: Plan) -> Iterable[Morphism]:
        """New channels; they preserve the function."""
        worth, chosen = self._worths(situation, plan.open(situation.spaces)), plan.selection
        least, cost = _evened(situation, chosen)
        steps, most = situation.steps, plan.most
        return _widened(plan, allocated(situation.model, least, worth, situation.target, cost, steps=steps, most=most))

    def _worths(self, situation: Situation, names: list[str]) -> dict[str, float]:
        return worths(self._measured(situation), [situation.spaces[name] for name in names])

    def _measured(self, situation: Situation) -> Mapping[str, float]:
        return situation.worths


@dataclass(frozen=True)
class EqualWorths(ByWorth):
    """The widths that are best where the width of every layer is worth the same, whatever was measured."""

    measures: ClassVar[bool] = False

    def _measured(self, situation: Situation) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class Proportions:
    """New channels, each for the space that is narrowest in units of a shape among those in which one fits."""

    shape: Callable[[ChannelSpace], float]
    measures: ClassVar[bool] = False

    def widths(self, situation: Situation, plan: Plan) -> Mapping[str, int]:
        """The widths that are reached; none is below what it is."""
        shape = {name: self.shape(situation.spaces[name]) for name in plan.open(situation.spaces)}
        (now, cost), growing = _evened(situation, plan.selection), list(shape)
        while growing:
            name = min(growing, key=lambda n: now[n] / shape[n])  # the first of equals, in the order of the network
            wider = raised(now[name], situation.steps.get(name, 1))
            marginal = situation.model.marginal(name, now, wider - now[name])
            if situation.target.allows(cost + marginal):
                now[name] = wider
                cost += marginal
            else:
                growing.remove(name)
        return now

    def fill(self, situation: Situation, plan: Plan) -> Iterable[Morphism]:
        """New channels; they preserve the function."""
        return _widened(plan, self.widths(situation, plan))


def _evened(situation: Situation, chosen: Selection) -> tuple[dict[str, int], Cost]:
    """The widths of a selection, those that changed raised to what they may become, and what they cost.

    They are never above the widths that the selection kept to, so that they fit where those did.
    """
    before, steps = situation.model.widths, situation.steps
    widths = dict(chosen.widths)
    for name, step in steps.items():
        if widths[name] != before[name] and widths[name] % step:
            even = raised(widths[name], step)
            widths[name] = min(even, before[name]) if widths[name] < before[name] else even
    return widths, chosen.cost if widths == dict(chosen.widths) else situation.model.of(widths)


def _widened(plan: Plan, wanted: Mapping[str, int]) -> list[Morphism]:
    return [NewChannel(name) for name in wanted for _ in range(wanted[name] - plan.selection.widths[name])]


ALLOCATIONS: dict[str, Allocation] = {
    "worth": ByWorth(),
    "none": Nothing(),
    "equal-worths": EqualWorths(),
    "uniform": Proportions(lambda space: 1 / space.inner),
    "proportional": Proportions(lambda space: space.size),
}
"""Rules by name; "equal-worths" looks at costs alone, "uniform" aims at equal widths, in entries that layers write, "proportional"
at those that the network has."""


def register_allocation(name: str, rule: Allocation) -> None:
    """Make a rule known to `GaussNewtonGrowth(allocation=...)`.

    Raises:
        PassError: the name is taken.

    >>> register_allocation("worth", Nothing())
    Traceback (most recent call last):
    gngraph.errors.PassError: allocation 'worth' is registered already; give this one another name
    """
    if name in ALLOCATIONS:
        raise PassError(f"allocation '{name}' is registered already; give this one another name")
    ALLOCATIONS[name] = rule
