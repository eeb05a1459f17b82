"""Training that ends early, and gives the network of the lowest loss on samples that it does not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gngraph.errors import DataError
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from gngraph.training.progress import EpochRecord


class Patience:
    """How long a stretch of training waits for a lower loss.

    Args:
        epochs: without one after which it ends; None: it does not end early, and gives the last network.
        problem: whose judge split the loss is of.
        done: the epochs of a stretch that goes on.
        best: the network of the lowest loss among them; None: there is none.
    """

    def __init__(
        self, epochs: int | None, problem: Problem, done: Sequence[EpochRecord] = (), best: Graph | None = None
    ) -> None:
        self._epochs, self._problem, self.best = epochs, problem, best
        self._losses = [math.inf if epoch.judged is None else epoch.judged for epoch in done]

    def judged(self, network: Callable[[], Graph]) -> float | None:
        """The loss of the network after an epoch; None where none is asked for, or it is not finite.

        Args:
            network: gives it.
        """
        if self._epochs is None:
            return None
        graph = network()
        loss = mean_loss(graph, self._problem, self._problem.splits.judge)
        loss = loss if math.isfinite(loss) else math.inf
        if loss < min(self._losses, default=math.inf):
            self.best = graph
        self._losses.append(loss)
        return loss if loss < math.inf else None

    @property
    def over(self) -> bool:
        """Whether training is to end."""
        if self._epochs is None or not self._losses:
            return False
        return len(self._losses) - 1 - self._losses.index(min(self._losses)) >= self._epochs


def kept_told(epochs: Sequence[EpochRecord], asked: int) -> str | None:
    """What to say of a stretch that could end early: when it did, and of which epoch its network is; None where it could not.

    Args:
        epochs: that were trained.
        asked: how many it was for.

    >>> epochs = [EpochRecord(number, 1.0, None, 0.1, 0.0, judged) for number, judged in ((1, 0.9), (2, 0.7), (3, 0.8))]
    >>> kept_told(epochs, 5)
    'training ended after 3 of 5 epochs, and its network is that after epoch 2, of the lowest loss on withheld samples, 0.7'
    """
    losses = {epoch.judged: epoch.epoch for epoch in reversed(epochs) if epoch.judged is not None}
    if not losses:
        return None
    ended = (
        f"training ended after {len(epochs)} of {asked} epochs, and its network"
        if len(epochs) < asked
        else "the network"
    )
    return (
        f"{ended} is that after epoch {losses[min(losses)]}, of the lowest loss on withheld samples, {min(losses):.4g}"
    )


def last_problem(problem: Problem, options: TrainOptions) -> Problem:
    """The problem of the last stretch: on all samples, but where it is to end early by those that are withheld.

    Args:
        problem: of the run.
        options: of its training.
    """
    return problem.undivided if options.patience is None else problem


def require_judge(problem: Problem, options: TrainOptions) -> None:
    """Refuse to end early by samples that are not there.

    Args:
        problem: of the training.
        options: of it.

    Raises:
        DataError: the samples are too few to withhold any.
    """
    if options.patience is not None and not problem.divisible:
        raise DataError(
            f"training cannot end early by samples that it does not see (patience): of {len(problem.samples)} none are withheld; "
            f"name others (unseen)"
        )
