"""Accuracy of what another runtime computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from gngraph.ir import Graph
from gngraph.ir.inputs import over_samples, with_shared
from gngraph.running.evaluation import Answers, correct
from gngraph.running.problem import Problem


def accuracy_outside(
    run: Callable[[tuple[torch.Tensor, ...]], Sequence[torch.Tensor]], graph: Graph, problem: Problem
) -> float | None:
    """Share of right answers on the test samples, as `evaluate` counts them for a graph; None where it does not.

    Args:
        run: maps the inputs of the network for a batch of samples, on the CPU, to its outputs; it has one.
        graph: the network that is run elsewhere.
        problem: data and loss.
    """
    answers = Answers()
    for x, y in problem.runner.read(problem.test, graph):
        (output,) = run(with_shared(graph, x))
        output = output.transpose(0, 1) if over_samples(graph).outputs != graph.outputs else output
        answers.add(Answers.counted(correct(problem.loss_fn, output.to(problem.device), y)))
    return answers.accuracy
