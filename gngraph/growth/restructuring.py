"""What becomes of the layers of a network before its first rewrite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from gngraph.analysis.cost import Budget
from gngraph.analysis.manager import AnalysisManager
from gngraph.growth.history import Record
from gngraph.ir import Graph
from gngraph.options import RunOptions
from gngraph.rewrite.graph_pass import PassResult
from gngraph.search import structure
from gngraph.search.depth import DEPTH, UNSEARCHED, removed_in_turn, searched
from gngraph.search.lookahead import Lookahead
from gngraph.search.low_ranks import LowRankFirst
from gngraph.search.strategy import Strategy
from gngraph.search.structure import STRUCTURE, UNTRIED


@dataclass(frozen=True)
class Restructuring:
    """Before the first rewrite a network loses the layers that it does better without, and others become what it does better with.

    Attributes:
        analyses: of the run.
        budget: of the run.
        options: of the run; they say what is searched.
        strategy: of the run; some have layers become low-rank.
        stage: surrounds the parts.
        notes: what is to be told, once it is done.
    """

    analyses: AnalysisManager
    budget: Budget
    options: RunOptions
    strategy: Strategy | Lookahead
    stage: Callable[[str], AbstractContextManager[None]]
    notes: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to be done."""
        return self.options.searches or isinstance(self.strategy, LowRankFirst)

    def of(self, graph: Graph, record: Record) -> tuple[PassResult, ...]:
        """What makes the new network, a step after the other.

        Args:
            graph: the network, trained.
            record: of the round, to which it is added what was tried.
        """
        steps = self._searched(graph, record) if self.options.searches else ()
        if isinstance(self.strategy, LowRankFirst):
            with self.stage(STRUCTURE):
                steps = (
                    *steps,
                    *self.strategy.factorised(steps[-1].graph if steps else graph, self.analyses, self.budget),
                )
        return steps

    def _searched(self, graph: Graph, record: Record) -> tuple[PassResult, ...]:
        options = self.options
        with self.stage(DEPTH):
            asked = (graph, self.analyses, self.budget, options.train, options.whole)
            depth = searched(*asked) if options.depth == "search" else UNSEARCHED
            record[DEPTH] = depth.record(graph)
            steps = removed_in_turn(graph, self.analyses, depth.removed)
        if options.structure == "search":
            with self.stage(STRUCTURE):
                found = structure.searched(*asked, depth)
                record[STRUCTURE], steps = found.record(graph), found.steps
            if not any(trial.design.changes for trial in found.trials):
                self.notes.append(UNTRIED)
        return steps
