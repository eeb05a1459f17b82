"""What runs do: a network is grown, or a trained one made larger, reshaped or made smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.scope import EVERYTHING, Scope
from gngraph.errors import OptionError
from gngraph.growth.schedule import require_room
from gngraph.growth.timing import timed_budget
from gngraph.ir import Graph
from gngraph.latency import LatencySetting, clock_of
from gngraph.latency.fitting import VECTOR
from gngraph.options import (
    ExtendOptions,
    GrowOptions,
    Options,
    ReshapeOptions,
    ReworkOptions,
    RunOptions,
    ScopeOptions,
    ShrinkOptions,
)
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.lookahead import Lookahead, decided_by
from gngraph.search.low_ranks import LOW_RANK, LowRankFirst
from gngraph.search.strategy import GaussNewtonGrowth, Strategy

Chosen = TypeVar("Chosen", bound=ScopeOptions)


@dataclass(frozen=True)
class Task:
    """What a run is to do.

    Attributes:
        strategy: how its rounds decide; a lookahead finds that in the first round, and can only grow.
        budget: what the result may cost.
        options: how it goes on.
        given: options of the job that this is, from which `JOBS` makes it again; None where it was made by hand, so that a run of
            it cannot be resumed.
        scope: what may change.
    """

    strategy: Strategy | Lookahead
    budget: Budget
    options: RunOptions
    given: Options | None = None
    scope: Scope = EVERYTHING


@dataclass(frozen=True)
class Job(Generic[Chosen]):
    """A kind of task, by its options.

    Attributes:
        options: their record.
        strategy: how such a run decides.
        budget: what the result may cost, from the network.
        run: how such a run goes on.
    """

    options: type[Chosen]
    strategy: Callable[[Chosen], Strategy | Lookahead]
    budget: Callable[[Graph, Chosen], Budget]
    run: Callable[[Chosen], RunOptions]

    def task(self, options: Chosen, graph: Graph) -> Task:
        """What is to be done with `graph`. All that can be refused before anything is trained or written, is.

        Raises:
            BudgetError: the network does not fit its budget.
            OptionError: kinds of candidates do not suffice.
        PassError, GnGraphError: there is no such kind of candidate, allocation or curvature, or a pattern names nothing.
        """
        scope = scope_of(options)
        scope.check(graph, ChannelSpaces.of(graph))
        return Task(self.strategy(options), self.budget(graph, options), self.run(options), options, scope)


def scope_of(options: ScopeOptions) -> Scope:
    """What may change. Where milliseconds are bounded, widths become multiples of `VECTOR` too: others may take far longer."""
    multiple: int = getattr(options, "round_to", 1)
    if isinstance(options, GrowOptions) and options.max_latency is not None and options.allocation != "none":
        multiple = math.lcm(multiple, VECTOR)
    return Scope(options.only, options.exclude, multiple)


def _growing(options: GrowOptions) -> Strategy | Lookahead:
    return decided_by(options.allocation, GaussNewton(options.curvature, kinds=options.kinds), options.selection)


def _grown(graph: Graph, options: GrowOptions) -> Budget:
    budget = Budget(options.max_params, options.max_flops)
    require_room(graph, budget)
    if options.max_latency is None:
        return budget
    setting = LatencySetting(options.on, options.latency_batch, options.latency_threads)
    return timed_budget(graph, budget, options.max_latency, clock_of(setting))


def _extended(graph: Graph, options: ExtendOptions) -> Budget:
    size, factor = cost(graph), 1 + options.by
    return Budget(int(size.params * factor), int(size.flops * factor))


def _reshaped(graph: Graph, options: ReshapeOptions) -> Budget:
    size = cost(graph)
    return Budget(size.params, size.flops)


def _shrunken(graph: Graph, options: ShrinkOptions) -> Budget:
    size = cost(graph)
    return Budget(int(size.params * options.params_to), int(size.flops * options.to))


def _shrinking(options: ShrinkOptions) -> Strategy:
    if "prune" not in options.kinds:
        raise OptionError("channels are what a network comes down to its size by: name prune among the kinds too")
    kind = LowRankFirst if LOW_RANK in options.kinds else GaussNewtonGrowth
    return kind(GaussNewton(kinds=("prune",)), widens=False)


JOBS: Mapping[str, Job[Any]] = {
    "grow": Job(GrowOptions, _growing, _grown, lambda options: options),
    # what is promised to lose nothing loses nothing: no channel is removed
    "extend": Job(ExtendOptions, lambda _: GaussNewtonGrowth(narrows=False), _extended, ReworkOptions.run),
    "reshape": Job(ReshapeOptions, lambda _: GaussNewtonGrowth(), _reshaped, ReworkOptions.run),
    "shrink": Job(ShrinkOptions, _shrinking, _shrunken, ReworkOptions.run),
}
"""Jobs by name, which is the title of their options.

"grow" takes a network up to a budget. The others rewrite a trained network once and train it on, with a learning rate that falls to
0 along a cosine: "extend" adds a share of params and FLOPs, "reshape" keeps what there is, "shrink" keeps a share of the FLOPs, and
of the params, which become no more. Widths follow what they are worth (`gngraph.search.widths`): where the network is too narrow
for its budget it gets learned splits and exact new channels, where it is too wide it loses the channels that the loss misses
least, which are rebuilt from those that stay. "shrink" makes nothing wider: what new channels take others lose, and little training
is left for them; where it is asked to, it has layers become low-rank first (`gngraph.search.low_ranks`). A rewrite of which the
loss rises more than was predicted is refused, but for one that must shrink the network.
"""
