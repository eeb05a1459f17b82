"""`AnalysisManager`: results of analyses, cached per snapshot."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from gngraph.analysis.scope import EVERYTHING, Scope
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.ir.graph import checked
from gngraph.running.problem import Problem
from gngraph.running.sparing import spared

Result = TypeVar("Result", covariant=True)


class Analysis(Protocol[Result]):
    """Anything hashable with `run`: an instance whose fields are its options, or a class with a class method."""

    def run(self, graph: Graph, analyses: AnalysisManager) -> Result:
        """The result for `graph`; other results come from `analyses.get`."""
        ...


class AnalysisManager:
    """Runs analyses and keeps their results for as long as the snapshot lives.

    Graphs never change and are equal only to themselves, so a result cannot go stale; it is dropped with its graph
    (unless the result itself holds the graph). Equal analyses share a result. Not for several threads.

    >>> import torch
    >>> import gngraph
    >>> from gngraph.analysis.channels import ChannelSpaces
    >>> graph = gngraph.from_torch(torch.nn.Linear(2, 3), torch.zeros(1, 2))
    >>> analyses = AnalysisManager()
    >>> analyses.get(ChannelSpaces, graph) is analyses.get(ChannelSpaces, graph)
    True

    Args:
        problem: what the analyses are about; None: they are of graphs alone.
        held: channel spaces that must keep their widths, with the reason, beside those that are frozen.
        scope: what else may not change.
    """

    def __init__(
        self,
        problem: Problem | None = None,
        held: Mapping[str, str] = MappingProxyType({}),
        scope: Scope = EVERYTHING,
    ) -> None:
        if problem is not None and not isinstance(problem, Problem):
            raise PassError(f"the problem of analyses is a Problem, but a '{type(problem).__name__}' was given")
        self._problem = problem
        self.held = held
        self.scope = scope
        self._results: weakref.WeakKeyDictionary[Graph, dict[Hashable, Any]] = weakref.WeakKeyDictionary()

    @property
    def problem(self) -> Problem:
        """The problem that the analyses are about.

        Raises:
            PassError: there is none.
        """
        if self._problem is None:
            raise PassError("this needs data and a loss, but no problem was given: pass AnalysisManager(Problem(data))")
        return self._problem

    @property
    def has_problem(self) -> bool:
        """Whether there is a problem."""
        return self._problem is not None

    def get(self, analysis: Analysis[Result], graph: Graph) -> Result:
        """The result of `analysis` for `graph`, computed at most once. What an analysis raises is not kept."""
        results = self._results.setdefault(checked(graph), {})
        key = cast(Hashable, analysis)
        if key not in results:
            given = self._problem
            work = partial(analysis.run, graph, self)
            results[key] = work() if given is None else spared(given, "an analysis", work)
        return cast(Result, results[key])
