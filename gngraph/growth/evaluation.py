"""Loss and accuracy of a graph on a data set."""

from __future__ import annotations

import torch

from gngraph.analysis.manager import Problem
from gngraph.convert.to_torch import lower
from gngraph.curvature import Loss
from gngraph.data import MapDataset, batches
from gngraph.ir import Graph


def evaluate(graph: Graph, problem: Problem, dataset: MapDataset) -> tuple[float, float | None]:
    """Mean loss and accuracy in eval mode; accuracy is None for a regression.

    Cost: one forward pass over `dataset`. Sums are float64.

    Raises:
        DataError: the data set is empty.
    """
    module = lower(graph.to(device=problem.device)).module
    loss, right, samples, answers = 0.0, 0.0, 0, False
    with torch.no_grad():
        for x, y in batches(dataset, problem.batch_size, device=problem.device):
            outputs = module(x)
            loss += float(problem.loss_fn.per_sample(outputs, y).double().sum())
            hits = correct(problem.loss_fn, outputs, y)
            if hits is not None:
                answers = True
                right += float(hits.sum())
            samples += len(x)
    return loss / samples, right / samples if answers else None


def correct(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """Share of right answers for each sample, [N]: over positions or logits where there are several.

    Classes (targets one axis short of the outputs) are right where the largest output is, yes-or-no targets of the loss
    "bce-with-logits" where the sign is; None for anything else.

    >>> from gngraph.curvature import CrossEntropy
    >>> correct(CrossEntropy(), torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([1., 0.])
    """
    if loss.name == "bce-with-logits":
        hits = (outputs > 0) == (targets > 0.5)
    elif targets.dtype == torch.int64 and targets.dim() == outputs.dim() - 1:
        hits = outputs.argmax(1) == targets
    else:
        return None
    return hits.float().reshape(len(hits), -1).mean(1)
