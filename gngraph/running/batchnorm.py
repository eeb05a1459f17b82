"""Running statistics of a rewritten network, measured anew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any

import torch

from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.ops import lookup
from gngraph.running.problem import Problem

BATCHES = 32
"""Batches that give running statistics to about 1 %: 32 x 128 samples, each with many positions."""


def reestimate(graph: Graph, problem: Problem, *, batches_read: int = BATCHES) -> Graph:
    """`graph` with the running mean and variance of every norm that has them as the plain average over training batches.

    All layers are measured in one go, each behind layers that normalise by their batch, as in training; dropout is off,
    augmentation on. Nothing else changes. Cost: `batches_read` forward passes; none without such a norm.

    Args:
        graph: a trained network.
        problem: whose training samples are drawn, shuffled by its seed.
        batches_read: how many batches, or all where there are fewer.

    Raises:
        TrainingError: the module of a norm has no `momentum` by which it moves its statistics.
    """
    measured = _statistics(graph)
    if not measured:
        return graph
    module = to_torch(graph).to(problem.device)
    held = module.state_dict(keep_vars=True)
    for path, (mean, variance) in measured.items():
        norm = module.get_submodule(path)
        if not hasattr(norm, "momentum"):
            raise TrainingError(
                f"module '{path}' has running statistics but no attribute 'momentum' to move them by; give it one, as torch's "
                f"norms have"
            )
        held[mean].zero_()
        held[variance].fill_(1.0)
        norm.register_forward_pre_hook(_averaging())
        norm.train()
    stream = problem.runner.read_to_train(problem.train, graph, problem.stream(), augment=problem.augment)
    with torch.no_grad():
        for x, _ in islice(stream, batches_read):
            module(x)
    names = sorted({name for both in measured.values() for name in both})
    return graph.with_params({name: held[name].to(graph.params[name].data) for name in names})


def _statistics(graph: Graph) -> dict[str, tuple[str, str]]:
    """Modules that normalise by the batch in train mode -> their running mean and variance."""
    found = {}
    for node in graph.nodes.values():
        statistics = lookup(node.op).statistics
        if node.module is not None and statistics is not None and statistics.run(node):
            found[node.module] = node.params[statistics.mean], node.params[statistics.variance]
    return found


def _averaging() -> Callable[[Any, Any], None]:
    """A hook that makes the n-th call of a norm move its statistics by 1/n, so that they are the plain average of all."""
    calls = count(1)

    def before(norm: Any, args: Any) -> None:
        norm.momentum = 1.0 / next(calls)

    return before
