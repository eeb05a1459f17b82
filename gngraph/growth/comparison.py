"""What growth is to be better than: the plain design of the grown network's size, trained from nothing for as long."""

from __future__ import annotations

from dataclasses import replace

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost, sides_of
from gngraph.growth.history import Record
from gngraph.growth.schedule import seed_cost
from gngraph.ir import Graph
from gngraph.options import RunOptions
from gngraph.running.finite import standing
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.search.designs import scaled
from gngraph.training.patience import last_problem
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

UNIFORM = "plain design of the grown size"
"""The seed's architecture, all its widths scaled alike."""


def plain_design(seed: Graph, grown: Graph, budget: Budget) -> Graph:
    """The seed's architecture with all widths scaled alike, within what the grown network costs on the sides that were bounded.

    Args:
        seed: the network that growth started from.
        grown: that it ended with.
        budget: of the run.
    """
    most = [max(pair) for pair in zip(*(sides_of(seed_cost(graph, budget)) for graph in (seed, grown)), strict=True)]
    bounds = [None if side is None else limit for side, limit in zip(budget.sides, most, strict=True)]
    params, flops, time = bounds
    return scaled(seed, replace(budget, max_params=params, max_flops=flops, max_nanoseconds=time))


def trained_beside(name: str, graph: Graph, problem: Problem, options: RunOptions) -> Record:
    """What a network comes to that is trained from new initial weights along a cosine, for as many epochs as a run.

    Args:
        name: what it is called.
        graph: its architecture.
        problem: data and loss; it sees all samples, as the run does in the end.
        options: of the run.

    Raises:
        TrainingError: training diverged.
    """
    begun = restarted(graph, mixed(problem.seed, -1))
    trainer = Trainer(last_problem(problem, options.train), options.train)
    trained = trainer.train(begun, Stretch(options.whole, "cosine", patience=options.train.patience))
    found, size = standing(trained.graph, problem), cost(trained.graph)
    widths = {space.name: space.size for space in ChannelSpaces.of(trained.graph).free}
    measured = {**found.record(), "tested": problem.tested}
    return {
        "name": name,
        "params": size.params,
        "flops": size.flops,
        "epochs": len(trained.epochs),
        **measured,
        "widths": widths,
    }
