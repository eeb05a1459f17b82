"""`Strategy`: how a round decides what is done to the network. `GaussNewtonGrowth`: gngraph's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism
from gngraph.scoring.gauss_newton import GaussNewton, Moments, Scores
from gngraph.scoring.merging import merged_into_rest
from gngraph.scoring.selection import Selection, select
from gngraph.search.allocations import ALLOCATIONS, Allocation, Room
from gngraph.search.step import Plan

KINDS = ("split", "prune")
"""Kinds of candidates of gngraph's own growth. Prunes are also what widths are measured by, where none is to be removed."""

REMOVALS = frozenset({"prune", "merge"})
"""Kinds of candidates that make a space narrower."""


@dataclass(frozen=True, eq=False)
class Situation:
    """What a round decides upon.

    Attributes:
        graph, spaces, model: the network, trained.
        analyses: of the run, for what a decision still needs to know.
        scores: what the strategy's analysis found; without any candidate where it has none.
        capacity: space -> what its width is worth, over all rounds so far; see `CapacityRecord`.
        target: what the round may use.
        budget: what the whole run may use.
        generator: for whatever is random, on the CPU.
    """

    graph: Graph
    analyses: AnalysisManager
    spaces: ChannelSpaces
    model: CostModel
    scores: Scores
    capacity: Mapping[str, float]
    target: Budget
    budget: Budget
    generator: torch.Generator


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


def unscored() -> Scores:
    """The scores of no candidate."""
    empty = Moments(torch.zeros(2, 0), torch.zeros(1, 2, 0))
    return Scores((), empty, empty, ())


def unselected(situation: Situation) -> Selection:
    """The selection of no candidate."""
    model = situation.model
    return Selection((), 0.0, 0.0, dict(model.widths), model.of(model.widths), frozenset())


@dataclass(frozen=True)
class GaussNewtonGrowth:
    """Candidates chosen by the Gauss-Newton model of the loss, and an allocation rule for the rest of the budget.

    Attributes:
        analysis: see `GaussNewton`; None: everything goes by the allocation rule.
        selection: "joint" or "additive".
        allocation: a name of `ALLOCATIONS`.
        narrows: whether channels may be removed, where the analysis scores that.

    Raises:
        PassError: there is no such allocation rule.
    """

    analysis: GaussNewton | None = field(default_factory=lambda: GaussNewton(kinds=KINDS))
    selection: str = "joint"
    allocation: str = "capacity"
    narrows: bool = True

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
        widths = self._allocation.widths(self._room(situation, unselected(situation), ()))
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
        return Plan(learned, tuple(self._allocation.fill(self._room(situation, selection, learned))))

    @property
    def measures(self) -> bool:
        """Whether the allocation rule asks what widths are worth."""
        return self._allocation.measures

    @property
    def _allocation(self) -> Allocation:
        return ALLOCATIONS[self.allocation]

    def _room(self, situation: Situation, selection: Selection, learned: tuple[Morphism, ...]) -> Room:
        """What a selection leaves."""
        prunes = {c.morphism.space for c in situation.scores.candidates if c.morphism.kind == "prune"}
        return Room(
            situation.graph,
            situation.spaces,
            situation.model,
            selection.widths,
            selection.cost,
            situation.target,
            situation.budget,
            situation.capacity,
            prunes if self.narrows else (),
            selection.held,
            {(m.space, getattr(m, "channel", -1)) for m in learned},
            situation.generator,
        )
