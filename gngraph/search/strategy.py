"""`Strategy`: how a round decides what is done to the network. `GaussNewtonGrowth`: gngraph's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from gngraph.errors import PassError
from gngraph.rewrite.morphism import Morphism
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.proposers.merges import merged_into_rest
from gngraph.scoring.selection import Selection, select
from gngraph.search.allocations import ALLOCATIONS, Allocation
from gngraph.search.situation import Plan, Situation, unselected

KINDS = ("split", "prune")
"""Kinds of candidates of gngraph's own growth. Prunes are also what widths are measured by, where none is to be removed."""

REMOVALS = frozenset({"prune", "merge"})
"""Kinds of candidates that make a space narrower."""


class Strategy(Protocol):
    """How a round decides."""

    @property
    def analysis(self) -> GaussNewton | None:
        """What is to be known of the candidates; None: there are none."""
        ...

    @property
    def allocation(self) -> str:
        """Name of the rule, one of `ALLOCATIONS`, for the rest of the budget."""
        ...

    @property
    def measures(self) -> bool:
        """Whether that rule asks what widths are worth."""
        ...

    def learned(self, situation: Situation) -> Selection:
        """The learned morphisms, among the candidates."""
        ...

    def plan(self, situation: Situation, selection: Selection) -> Plan:
        """The learned morphisms, and what goes into the rest of the round's budget."""
        ...


@dataclass(frozen=True)
class GaussNewtonGrowth:
    """Candidates chosen by the Gauss-Newton model of the loss, and an allocation rule for the rest of the budget.

    Attributes:
        analysis: see `GaussNewton`; None: everything goes by the allocation rule.
        selection: "joint" or "additive".
        allocation: a name of `ALLOCATIONS`.
        narrows: whether channels may be removed, where the analysis scores that.
        widens: whether a space may become wider than it is, where the allocation goes by worths.

    Raises:
        PassError: there is no such allocation rule.
    """

    analysis: GaussNewton | None = field(default_factory=lambda: GaussNewton(kinds=KINDS))
    selection: str = "joint"
    allocation: str = "worth"
    narrows: bool = True
    widens: bool = True

    def __post_init__(self) -> None:
        if self.allocation not in ALLOCATIONS:
            raise PassError(f"allocation '{self.allocation}' is unknown; choose one of {', '.join(ALLOCATIONS)}")

    def learned(self, situation: Situation) -> Selection:
        """What the selection rule wants, within the widths that the allocation rule asks for."""
        scores, model = situation.scores, situation.model
        kinds = {c.morphism.kind for c in scores.candidates}
        if not self.narrows:
            kinds -= REMOVALS
        if not kinds:
            return unselected(situation)
        widths = self._allocation.widths(situation, self._plan(situation, unselected(situation)))
        return select(scores, model, budget=situation.target, widths=widths, rule=self.selection, kinds=kinds)

    def plan(self, situation: Situation, selection: Selection) -> Plan:
        """The selection, and the rest by the allocation rule.

        Which channels are removed together is known by now. Those that are missed are rebuilt from all that stay, so that the
        loss rises less than the selection predicts; those whose removal gains are left out.
        """
        candidates = [situation.scores.candidates[i] for i in selection.chosen]
        missed = [c.morphism for c in candidates if c.gain < 0]
        wanted = [c.morphism for c in candidates if c.gain >= 0]
        learned = (*wanted, *merged_into_rest(situation.graph, situation.analyses, missed, also=wanted))
        plan = self._plan(situation, selection, learned)
        return replace(plan, exact=tuple(self._allocation.fill(situation, plan)))

    @property
    def measures(self) -> bool:
        """Whether the allocation rule asks what widths are worth."""
        return self._allocation.measures

    @property
    def _allocation(self) -> Allocation:
        return ALLOCATIONS[self.allocation]

    def _plan(self, situation: Situation, selection: Selection, learned: tuple[Morphism, ...] = ()) -> Plan:
        """A plan of which the exact part is open."""
        prunes = {c.morphism.space for c in situation.scores.candidates if c.morphism.kind == "prune"}
        most = {} if self.widens else situation.model.widths
        return Plan(selection, learned, removable=prunes if self.narrows else (), most=most)
