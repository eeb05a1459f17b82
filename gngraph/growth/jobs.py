"""What is done to a trained network: it is made larger, reshaped at the same cost, or made smaller, and trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gngraph.analysis.cost import Budget, Cost, cost
from gngraph.errors import BudgetError
from gngraph.growth.loop import grow_by
from gngraph.growth.result import GrowthResult
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.strategy import KINDS, GaussNewtonGrowth


@dataclass(frozen=True)
class Job:
    """A way to rework a trained network.

    Attributes:
        budget: what the result may cost, from what the network costs and from the share that the user names.
        share: the share where none is named; None: the job has none.
        least, most: the open interval in which a share lies.
        kinds: kinds of candidates, see `GaussNewton`.
        narrows: whether channels may be removed: what is promised to lose nothing loses nothing.
    """

    budget: Callable[[Cost, float], Budget]
    share: float | None
    least: float
    most: float
    kinds: tuple[str, ...] = KINDS
    narrows: bool = True


JOBS: Mapping[str, Job] = {
    "extend": Job(
        lambda size, by: Budget(int(size.params * (1 + by)), int(size.flops * (1 + by))),
        0.5,
        0.0,
        100.0,
        narrows=False,
    ),
    "reshape": Job(lambda size, _: Budget(size.params, size.flops), None, 0.0, 1.0),
    "shrink": Job(lambda size, to: Budget(size.params, int(size.flops * to)), 0.5, 0.0, 1.0, ("prune",)),
}
"""Jobs by name: "extend" adds a share of params and FLOPs, "reshape" keeps what there is, "shrink" keeps a share of the FLOPs and
adds no params."""


def strategy(job: str) -> GaussNewtonGrowth:
    """How a job decides."""
    return GaussNewtonGrowth(GaussNewton(kinds=JOBS[job].kinds), narrows=JOBS[job].narrows)


def rework(
    job: str, graph: Graph, problem: Problem, *, share: float | None = None, epochs: int = 15, **options: Any
) -> GrowthResult:
    """Rewrite a trained network once and train it on, with a learning rate that falls to 0 along a cosine.

    Widths follow what they are worth (`gngraph.search.widths`): where the network is too narrow for its budget it gets learned
    splits and exact new channels, where it is too wide it loses the channels that the loss misses least, which are rebuilt
    from those that stay. A rewrite of which the loss rises more than was predicted is refused, as in `grow`, but for one that must
    shrink the network.

    Cost: one analysis (see `GaussNewton`), and `epochs` epochs of training.

    Args:
        job: a name of `JOBS`.
        graph: the network, trained.
        share: what an extension adds to parameters and FLOPs, or what of the FLOPs a shrunken network keeps.
        epochs: of training after the rewrite.
        options: `perturb` (0 where it is not given), `out`, `observer` and `train` of `grow`. Perturbed, an extended network
            that was trained from nothing on the same data ends better, and a shrunken one worse; what a network knew from
            other data is partly lost.

    Raises:
        BudgetError: the share is out of range or not asked for, or channels that can be removed do not suffice.
        TrainingError, PassError, GnGraphError: as `grow` does.
    """
    what = JOBS[job]
    if what.share is None and share is not None:
        raise BudgetError(f"{job} keeps parameters and FLOPs and takes no share, but '{share:g}' was given")
    given = what.share if share is None else share
    if given is not None and not what.least < given < what.most:
        raise BudgetError(f"{job} takes a share between {what.least:g} and {what.most:g}, not '{given:g}'")
    return grow_by(
        strategy(job),
        graph,
        problem,
        budget=what.budget(cost(graph), given or 0.0),
        rounds=1,
        epochs=0,
        final_epochs=epochs,
        **options,
    )
