"""The best output that is the same for all samples: what a network has to do better than."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from gngraph.curvature import LOSSES, Heads
from gngraph.curvature.outputs import leaves, replaced
from gngraph.data.inputs import SampleInputs, count_of, each
from gngraph.ir import Graph
from gngraph.running.problem import Problem

CONSTANT, FITTING = 512, 20
"""Samples that the best constant output is fitted on, and iterations of L-BFGS for it: the built-in losses are convex in it."""


def constant_loss(graph: Graph, problem: Problem, network: Callable[..., Any] | None = None) -> float:
    """Mean loss on the judge split of the best output that is the same for all samples.

    It is fitted on the learn split, so that it knows of the judge split no more than a network does. Infinite for losses of a
    user's own, where outputs may be bound to a range. Cost: `FITTING` evaluations of the loss for `CONSTANT` samples.

    Args:
        graph: whose samples are read.
        problem: its data and loss.
        network: shows what outputs look like; None: the graph does, in the problem's runner.
    """
    runner, loss_fn = problem.runner, problem.loss_fn
    x, targets = next(runner.read(problem.splits.learn, graph, size=CONSTANT))
    first = tree_map_only(torch.Tensor, lambda one: one[:2], x)
    outputs = network(*each(first)) if network else runner.outputs(graph, first)
    parts = [part for part, _, _ in loss_fn.parts(outputs, targets)] if isinstance(loss_fn, Heads) else [loss_fn]
    if not all(type(part) in map(type, LOSSES.values()) for part in parts):
        return math.inf
    given = {path: leaf for path, leaf in leaves(outputs).items() if leaf.is_floating_point()}
    constant = {path: leaf.new_zeros(1, *leaf.shape[1:]).requires_grad_() for path, leaf in given.items()}
    optimizer = torch.optim.LBFGS(list(constant.values()), max_iter=FITTING, line_search_fn="strong_wolfe")

    def total(samples: SampleInputs, y: Any) -> torch.Tensor:
        same = {path: one.expand(count_of(samples), *one.shape[1:]) for path, one in constant.items()}
        return loss_fn.per_sample(replaced(outputs, same), y).double().sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = total(x, targets) / count_of(x)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        losses = runner.over(problem.splits.judge, graph, lambda x, y: float(total(x, y)), size=CONSTANT)
        loss = sum(losses) / len(problem.splits.judge)
    return loss if math.isfinite(loss) else math.inf
