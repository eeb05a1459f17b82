"""What a round decides upon, `Situation`, and what it decides, `Plan`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism
from gngraph.scoring.gauss_newton import Moments, Scores
from gngraph.scoring.selection import Selection


@dataclass(frozen=True, eq=False)
class Situation:
    """What a round decides upon.

    Attributes:
        graph: the network, trained.
        analyses: of the run, for what a decision still needs to know.
        scores: what the strategy's analysis found; without any candidate where it has none.
        worths: space -> what its width is worth, over all rounds so far; see `WorthRecord`.
        target: what the round may use.
        budget: what the whole run may use.
        generator: for whatever is random, on the CPU.
    """

    graph: Graph
    analyses: AnalysisManager
    scores: Scores
    worths: Mapping[str, float]
    target: Budget
    budget: Budget
    generator: torch.Generator

    @property
    def spaces(self) -> ChannelSpaces:
        """Channel spaces of the network."""
        return self.analyses.get(ChannelSpaces, self.graph)

    @cached_property
    def steps(self) -> dict[str, int]:
        """Channels by which the width of each free space changes, where that is more than one."""
        steps = {space.name: self.analyses.scope.step(space) for space in self.spaces.free}
        return {name: step for name, step in steps.items() if step > 1}

    @cached_property
    def model(self) -> CostModel:
        """What the network costs at any widths."""
        return self.budget.model(self.graph, self.spaces)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a round does, as far as it is decided.

    Attributes:
        selection: which candidates are applied, and the widths and cost that come of it.
        learned: their morphisms.
        exact: what the allocation rule makes of the rest of the round's budget.
        removable: spaces whose channels may be removed.
        most: space -> the width that it does not grow beyond; where there is none, there is no such.
    """

    selection: Selection
    learned: tuple[Morphism, ...] = ()
    exact: tuple[Morphism, ...] = ()
    removable: Collection[str] = ()
    most: Mapping[str, int] = field(default_factory=dict)

    @property
    def morphisms(self) -> tuple[Morphism, ...]:
        """All that is applied."""
        return (*self.learned, *self.exact)

    def open(self, spaces: ChannelSpaces) -> list[str]:
        """Names of the spaces whose widths may still change, in the order of the network."""
        return [space.name for space in spaces.free if space.name not in self.selection.held]


def unscored() -> Scores:
    """The scores of no candidate."""
    empty = Moments(torch.zeros(2, 0), torch.zeros(1, 2, 0))
    return Scores((), empty, empty, ())


def unselected(situation: Situation) -> Selection:
    """The selection of no candidate."""
    model = situation.model
    return Selection((), 0.0, 0.0, dict(model.widths), model.of(model.widths), frozenset())
