"""How far what a network says of pixels overlaps what is there: the intersection over the union of each class."""

from __future__ import annotations

from typing import Any

import torch

from gngraph.curvature import CrossEntropy, Loss, NextToken, Outputs, class_targets, parts_of


def overlaps(loss: Loss, outputs: Outputs, targets: Any, rows: torch.Tensor | None = None) -> torch.Tensor | None:
    """Positions of each class that are said and there, and those that are either, int64 [2, K] on the CPU.

    Of samples with labels of positions, by a cross-entropy (not of tokens that come next); None of others. Of a sum over heads it
    is the first head that counts.

    Args:
        loss: that the network is trained by.
        outputs: of the network, [N, K, *spatial].
        targets: of the same samples.
        rows: bool [N], which samples count; None: all.

    >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 2.0]]])
    >>> overlaps(CrossEntropy(ignore_index=255), logits, torch.tensor([[0, 1, 0]]))
    tensor([[1, 1],
            [2, 2]])
    """
    loss, outputs, targets = parts_of(loss, outputs, targets)[0]
    if not isinstance(loss, CrossEntropy) or isinstance(loss, NextToken) or not isinstance(outputs, torch.Tensor):
        return None
    labels = class_targets(outputs, targets)
    if outputs.dim() < 3 or labels.is_floating_point():
        return None
    counted, classes, said = loss.counted(labels), outputs.shape[1], outputs.argmax(1)
    if rows is not None:
        counted = counted & rows.reshape(-1, *[1] * (labels.dim() - 1))
    pairs = (labels[counted] * classes + said[counted]).bincount(minlength=classes**2).reshape(classes, classes)
    both = pairs.diagonal()
    return torch.stack([both, pairs.sum(0) + pairs.sum(1) - both]).cpu()


def mean_overlap(sums: torch.Tensor | None) -> float | None:
    """Mean intersection over union of the classes that are said or there; None where there is none.

    Args:
        sums: of what `overlaps` gave for batches.

    >>> mean_overlap(torch.tensor([[1, 1, 0], [2, 4, 0]]))
    0.375
    """
    if sums is None or not bool(sums[1].any()):
        return None
    both, either = sums.double()
    return float((both / either)[either > 0].mean())
