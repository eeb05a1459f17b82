"""Running statistics of a trained or rewritten network, measured anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import fx, nn

from gngraph.data.inputs import count_of
from gngraph.errors import TrainingError
from gngraph.ir import Graph, Node
from gngraph.ir.inputs import over_samples
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.to_torch import Lowered, lower
from gngraph.ops import lookup
from gngraph.running.problem import Problem
from gngraph.running.sparing import sparing
from gngraph.running.together import Together

BATCHES = 32
"""Batches that give running statistics to about 1 %: 32 x 128 samples, each with many positions."""


def reestimate(graph: Graph, problem: Problem, *, batches_read: int = BATCHES) -> Graph:
    """`graph` with the running mean and variance of every norm that has them as the average over training batches.

    All layers are measured in one go, each behind layers that normalise by their batch, as in training; dropout is off,
    augmentation on. A norm that normalises by its running statistics in training too keeps them, and nothing else changes.
    Cost: `batches_read` forward passes; none without such a norm.

    Args:
        graph: a trained network.
        problem: whose training samples are drawn, shuffled by its seed.
        batches_read: how many batches, or all where there are fewer.

    Raises:
        TrainingError: the module of a norm has no `momentum` by which it moves its statistics.
    """
    found = settled([graph], problem, batches_read=batches_read).functions[0].found()
    return graph.with_params(found) if found else graph


@sparing("measuring statistics")
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
    if any(part.norms for part in together.functions):
        stream = problem.runner.read_to_train(
            problem.train,
            graphs[0],
            problem.stream(),
            augment=problem.augmentation,
            size=max(2, problem.runner.batch_size),
        )
        for x, _ in islice(stream, batches_read):
            if count_of(x) > 1:  # of one sample there is no variance
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
        norms: the nodes that are measured.

    Raises:
        TrainingError: the module of a norm has no `momentum` by which it moves its statistics.
    """

    def __init__(self, graph: Graph, problem: Problem) -> None:
        self._graph = graph = over_samples(graph)
        self.norms = [node for node in graph.nodes.values() if _moves(node)]
        own = {name: p.data.clone() for name, p in graph.params.items() if p.kind != "parameter"}
        for norm in self.norms:
            mean, variance = _statistics(norm)
            own[mean] = torch.zeros_like(graph.params[mean].data)
            own[variance] = torch.ones_like(graph.params[variance].data)
        lowered = lower(problem.runner.placed(graph.with_params(own)))
        self._module = lowered.module
        self._run: Any = _Measuring(lowered, self.norms).run if self.norms else lowered.module

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Any:
        """What the graph returns, without gradients."""
        return self._run(*inputs)

    def settle(self) -> None:
        """From now on norms go by the averages."""
        self._module.eval()
        self._run = self._module

    def found(self) -> dict[str, torch.Tensor]:
        """Running means and variances by the graph's names."""
        held = self._module.state_dict()
        names = sorted({name for norm in self.norms for name in _statistics(norm)})
        return {name: held[name].to(self._graph.params[name].data) for name in names}


def _moves(node: Node) -> bool:
    """Whether a node normalises by the batch in train mode, and by running statistics in eval mode."""
    statistics = lookup(node.op).statistics
    return statistics is not None and statistics.run(node) and statistics.of_batch(node)


def _statistics(norm: Node) -> tuple[str, str]:
    """Running mean and variance of a norm."""
    statistics = lookup(norm.op).statistics
    assert statistics is not None
    return norm.params[statistics.mean], norm.params[statistics.variance]


class _Measuring(Interpreter):
    """Runs a lowered graph with its norms in train mode, everything else in eval mode.

    A call of a norm moves its statistics by the call's share of the samples that they were moved by so far, so that they are the
    average over all.
    """

    def __init__(self, lowered: Lowered, norms: Sequence[Node]) -> None:
        super().__init__(lowered.module)
        self._norms = {lowered.values[norm.name]: norm for norm in norms}
        self._seen = Counter[str]()
        for step, norm in self._norms.items():
            if step.op == "call_module":
                module = lowered.module.get_submodule(str(step.target))
                if not hasattr(module, "momentum"):
                    raise TrainingError(
                        f"module '{norm.module}' has running statistics but no attribute 'momentum' to move them by; give it "
                        f"one, as torch's norms have"
                    )
                module.train()

    def run_node(self, n: fx.Node) -> Any:
        """Run one step."""
        if n not in self._norms:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        mean, _ = _statistics(self._norms[n])
        self._seen[mean] += len(args[0])
        share = len(args[0]) / self._seen[mean]
        if n.op == "call_module":
            norm: nn.Module = self.fetch_attr(str(n.target))
            norm.momentum = share  # type: ignore[assignment]
            return norm(*args, **kwargs)
        return self.call_function(n.target, args, kwargs | {"training": True, "momentum": share})
