"""Running statistics of a rewritten network, measured anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any

import torch

from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.ops import lookup
from gngraph.running.problem import Problem
from gngraph.running.together import Together

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
    found = settled([graph], problem, batches_read=batches_read).functions[0].found()
    return graph.with_params(found) if found else graph


def settled(graphs: Sequence[Graph], problem: Problem, *, batches_read: int = BATCHES) -> Together[Settling]:
    """Several networks, run together in eval mode with the statistics that `reestimate` gives each.

    Args:
        graphs: at least one.
        problem: as for `reestimate`.
        batches_read: as for `reestimate`.

    Raises:
        TrainingError: as `reestimate` does.
    """
    together = Together(graphs, lambda graph: Settling(graph, problem))
    if any(part.measured for part in together.functions):
        stream = problem.runner.read_to_train(problem.train, graphs[0], problem.stream(), augment=problem.augment)
        for x, _ in islice(stream, batches_read):
            for _ in together.outputs(x):
                pass
    for part in together.functions:
        part.settle()
    return together


class Settling:
    """A graph whose norms go by the batch at hand and average what they find, until they settle for that.

    It has statistics of its own; the rest of its parameters it shares with the graph.

    Args:
        graph: a network, or what is left of one.
        problem: names the device.

    Attributes:
        measured: modules of norms -> names of their running mean and variance.
    """

    def __init__(self, graph: Graph, problem: Problem) -> None:
        self._graph = graph
        self.measured = _statistics(graph)
        own = {name: p.data.clone() for name, p in graph.params.items() if p.kind != "parameter"}
        for mean, variance in self.measured.values():
            own[mean] = torch.zeros_like(graph.params[mean].data)
            own[variance] = torch.ones_like(graph.params[variance].data)
        module = lower(problem.runner.placed(graph.with_params(own))).module
        for path in self.measured:
            norm = module.get_submodule(path)
            if not hasattr(norm, "momentum"):
                raise TrainingError(
                    f"module '{path}' has running statistics but no attribute 'momentum' to move them by; give it one, as "
                    f"torch's norms have"
                )
            norm.register_forward_pre_hook(_momentum())
            norm.train()
        self._module = module

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Any:
        """What the graph returns, without gradients."""
        return self._module(*inputs)

    def settle(self) -> None:
        """From now on norms go by the averages."""
        self._module.eval()

    def found(self) -> dict[str, torch.Tensor]:
        """Running means and variances by the graph's names."""
        held = self._module.state_dict()
        names = sorted({name for both in self.measured.values() for name in both})
        return {name: held[name].to(self._graph.params[name].data) for name in names}


def _statistics(graph: Graph) -> dict[str, tuple[str, str]]:
    """Modules that normalise by the batch in train mode -> their running mean and variance."""
    found = {}
    for node in graph.nodes.values():
        statistics = lookup(node.op).statistics
        if node.module is not None and statistics is not None and statistics.run(node):
            found[node.module] = node.params[statistics.mean], node.params[statistics.variance]
    return found


def _momentum() -> Callable[[Any, Any], None]:
    """A hook that makes the n-th call of a norm move its statistics by 1/n, so that they are the plain average of all."""
    calls = count(1)

    def before(norm: Any, args: Any) -> None:
        norm.momentum = 1.0 / next(calls)

    return before
