"""Loss and accuracy of a graph on samples."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gngraph.curvature import (
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Loss,
    Outputs,
    class_targets,
    number_targets,
    parts_of,
)
from gngraph.data import MapDataset
from gngraph.data.inputs import SampleInputs
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.running.sparing import sparing
from gngraph.running.together import Together


@sparing("an evaluation")
@torch.no_grad()
def evaluate(graph: Graph, problem: Problem, dataset: MapDataset) -> tuple[float, float | None]:
    """Mean loss and accuracy in eval mode, the latter over the samples with a label that the loss counts.

    Accuracy is None where `correct` knows none, as for a regression, or no label counts. Cost: one forward pass over
    `dataset`. Sums are float64.

    Args:
        graph: the network.
        problem: names the loss and the device.
        dataset: any samples, such as `problem.test`.

    Raises:
        DataError: the data set is empty.
    """
    runner, loss, answers = problem.runner, 0.0, Answers()

    def measured(x: SampleInputs, y: Any) -> tuple[float, Counts]:
        outputs = runner.outputs(graph, x)
        loss = float(problem.loss_fn.per_sample(outputs, y).double().sum())
        return loss, Answers.counted(correct(problem.loss_fn, outputs, y))

    for own, counts in runner.over(dataset, graph, measured):
        loss += own
        answers.add(counts)
    return loss / len(dataset), answers.accuracy


Counts = tuple[float, int]
"""Right answers of some samples, and answers."""


class Answers:
    """Sums of what `correct` says of batches."""

    def __init__(self) -> None:
        self._right, self._answered = 0.0, 0

    @staticmethod
    def counted(hits: torch.Tensor | None) -> Counts:
        """Right answers of a batch, and answers.

        Args:
            hits: of `correct`.
        """
        return (0.0, 0) if hits is None else (float(hits.double().nansum()), int((~hits.isnan()).sum()))

    def add(self, counts: Counts) -> None:
        """Add those of a batch."""
        self._right += counts[0]
        self._answered += counts[1]

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, in float64; None where there was none."""
        return self._right / self._answered if self._answered else None


def mean_loss(graph: Graph, problem: Problem, dataset: MapDataset) -> float:
    """Mean of the problem's loss over samples, in eval mode, summed in float64.

    Cost: one forward pass over `dataset` on the problem's device.

    Args:
        graph: the network.
        problem: names the loss and the device.
        dataset: any samples, such as a split.
    """
    return mean_losses(Together([graph], problem.runner.function), problem, dataset)[0]


@sparing("an evaluation")
@torch.no_grad()
def mean_losses(networks: Together[Any], problem: Problem, dataset: MapDataset) -> list[float]:
    """`mean_loss` of several networks, in their order.

    Args:
        networks: in eval mode.
        problem: as for `mean_loss`.
        dataset: as for `mean_loss`.
    """
    totals = [0.0] * len(networks.functions)

    def measured(x: SampleInputs, y: Any) -> list[float]:
        return [float(problem.loss_fn.per_sample(o, y).double().sum().cpu()) for o in networks.outputs(x)]

    for losses in problem.runner.over(dataset, networks.first, measured):
        totals = [total + loss for total, loss in zip(totals, losses, strict=True)]
    return [total / len(dataset) for total in totals]


@sparing("an evaluation")
@torch.no_grad()
def sample_losses(networks: Together[Any], problem: Problem, dataset: MapDataset) -> torch.Tensor:
    """The problem's loss of every sample for each of several networks, float64 [networks, N] on the CPU.

    Args:
        networks: in eval mode.
        problem: as for `mean_loss`.
        dataset: as for `mean_loss`.
    """

    def measured(x: SampleInputs, y: Any) -> torch.Tensor:
        return torch.stack([problem.loss_fn.per_sample(o, y).double().cpu() for o in networks.outputs(x)])

    return torch.cat(problem.runner.over(dataset, networks.first, measured), 1)


def correct(loss: Loss, outputs: Outputs, targets: Any) -> torch.Tensor | None:
    """Share of right answers for each sample, [N]: over positions or logits where there are several.

    Classes (targets one axis short of the outputs) are right where the largest output is, yes-or-no targets of the loss
    "bce-with-logits" where the sign is, and probabilities of classes, as torch's cross-entropy takes them, where the largest
    output is that of the largest; None for anything else. Positions that the loss ignores do not count, and a sample with no
    other has nan. Of a sum over heads it is the first head that answers.

    Args:
        loss: that the network is trained by, which says what the outputs mean.
        outputs: of the network, batch first.
        targets: of the same samples.

    >>> from gngraph.curvature import CrossEntropy
    >>> correct(CrossEntropy(), torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([1., 0.])
    >>> correct(CrossEntropy(ignore_index=255), torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 255]))
    tensor([1., nan])
    """
    loss, outputs, targets = parts_of(loss, outputs, targets)[0]
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return None
    if isinstance(loss, CrossEntropy):
        outputs = loss.arranged(outputs)
        targets = class_targets(outputs, targets)
    if isinstance(loss, BinaryCrossEntropy):
        targets = number_targets(outputs, targets)
        hits, counted = (outputs > 0) == (targets > 0.5), torch.ones_like(targets, dtype=torch.bool)
    elif outputs.dim() < 2 or outputs.shape[1] < 2:
        return None
    elif targets.dtype == torch.int64 and targets.shape == outputs.shape[:1] + outputs.shape[2:]:
        hits, counted = outputs.argmax(1) == targets, _counted(loss, outputs, targets)
    elif targets.shape == outputs.shape and (isinstance(loss, CrossEntropy) or _is_cross_entropy(loss)):
        hits, counted = outputs.argmax(1) == targets.argmax(1), (targets != 0).any(1)
    else:
        return None
    right, all_ = ((part.float().reshape(len(hits), -1).sum(1)) for part in (hits & counted, counted))
    return right / all_


def _counted(loss: Loss, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Where `labels` count: where a loss of the user's own ignores one, no output of its position changes it.

    That is asked of outputs that are all 0, for which no class is sure.
    """
    if isinstance(loss, CrossEntropy):
        return loss.counted(labels)
    with torch.enable_grad():
        unsure = torch.zeros_like(outputs, requires_grad=True)
        (slope,) = torch.autograd.grad(loss.per_sample(unsure, labels).sum(), unsure)
    return (slope != 0).any(1)


def _is_cross_entropy(loss: Loss) -> bool:
    """Whether a loss of the user's own is torch's cross-entropy, which takes probabilities of classes too."""
    function: Any = loss.function if isinstance(loss, CustomLoss) else None
    while isinstance(function, partial):
        function = function.func
    return function is cross_entropy or isinstance(function, nn.CrossEntropyLoss)
