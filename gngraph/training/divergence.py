"""Training that leads away from the targets is told from training that is slow, and ends with the cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from gngraph.curvature import MeanSquaredError
from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.running.constant import constant_loss
from gngraph.running.evaluation import mean_loss
from gngraph.running.finite import require_finite
from gngraph.running.problem import Problem

FAR = 10.0
"""A loss of so many times that of the best constant output, and that from which training started, is no place to go on from."""

RISES = 3
"""Epochs in which the loss rises one after the other, to above that of a constant output, after which nothing better is awaited."""


class DivergedError(TrainingError):
    """The loss is not finite, or far above that of the best constant output, or keeps rising; the network is as it was before."""


class Course:
    """Where a stretch of training leads.

    Args:
        graph: the network that the stretch starts from.
        problem: its data and loss.
        rate: full learning rate, for messages.
        constant: loss of the best constant output; infinite where it is not known.
    """

    def __init__(self, graph: Graph, problem: Problem, rate: float, constant: float) -> None:
        self._graph, self._problem, self._rate, self._constant = graph, problem, rate, constant

    def check(self, losses: Sequence[float], network: Callable[[], Graph]) -> None:
        """Refuse to go on where that is hopeless.

        The mean over an epoch counts what was soon made up for, so that the loss of the network as it is decides.

        Args:
            losses: of the epochs of the stretch so far.
            network: gives the network as it is.

        Raises:
            DivergedError: it is hopeless.
            DataError: it is so for a sample, which is named.
        """
        if losses[-1] > FAR * self._constant and (now := self._loss(network())) > FAR * self._worst:
            raise self._diverged(f"after {_epochs(len(losses))} the loss is {now:.4g}")
        last = losses[-RISES - 1 :]
        rising = len(last) > RISES and all(before < after for before, after in pairwise(last))
        known = self._constant if math.isfinite(self._constant) else losses[0]
        if rising and losses[-1] > max(losses[0], known):
            raise self._diverged(f"the loss rose in {RISES} epochs one after the other, to {losses[-1]:.4g}")

    def not_finite(self, loss: float, step: int, epoch: int, rate: float) -> TrainingError:
        """What to raise where the loss of a batch is not finite.

        Args:
            loss: what it is.
            step, epoch: where it became that, from 1.
            rate: learning rate there.

        Raises:
            DataError: the samples are the cause; the first of them is named.
        """
        require_finite(self._graph, self._problem, self._problem.train)
        return DivergedError(
            f"the training loss became '{loss}' at step {step} of epoch {epoch} with learning rate '{rate:g}'{self._cause()}; "
            f"lower it or add warm-up (the network from before this stretch is unchanged)"
        )

    @property
    def _worst(self) -> float:
        """The loss of the best constant output, or that which training started from, where it is larger."""
        start = self._loss(self._graph)
        return max(self._constant, start) if math.isfinite(start) else self._constant

    def _loss(self, graph: Graph) -> float:
        loss = mean_loss(graph, self._problem, self._problem.splits.learn)
        return loss if math.isfinite(loss) else math.inf

    def _diverged(self, what: str) -> DivergedError:
        require_finite(self._graph, self._problem, self._problem.train)
        beside = f", where the best constant output has {self._constant:.4g}," if math.isfinite(self._constant) else ""
        return DivergedError(
            f"training diverged: {what}{beside} at a learning rate of '{self._rate:g}'{self._cause()}; lower it (--lr) or add "
            f"warm-up (the network from before this stretch is unchanged)"
        )

    def _cause(self) -> str:
        """What of the targets makes a rate too large, where it is they."""
        if not isinstance(self._problem.loss_fn, MeanSquaredError):
            return ""
        _, y = next(self._problem.runner.read(self._problem.train, self._graph))
        size = float(y.double().square().mean().sqrt()) if isinstance(y, torch.Tensor) else 1.0
        return f", and the targets have the size {size:.4g}: scale them to about 1" if not 0.01 < size < 100 else ""


def constant_of(graph: Graph, problem: Problem, module: nn.Module) -> float:
    """The loss of the best constant output, see `constant_loss`; infinite where there are too few samples.

    Args:
        graph: the network.
        problem: its data and loss.
        module: the network as it is trained, which shows what outputs look like.
    """
    return constant_loss(graph, problem, partial(_shown, module)) if problem.divisible else math.inf


@torch.no_grad()
def _shown(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """What a module that is trained gives in eval mode."""
    outputs = module.eval()(*inputs)
    module.train()
    return outputs


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
