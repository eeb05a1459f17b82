"""Targets as people have them, brought to the form in which a loss reads them, where only one form can be meant."""

from __future__ import annotations

import torch
from torch import Tensor


def class_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    """Labels int64 [N, *spatial], or shares of classes like the outputs, for logits [N, K, *spatial].

    Labels may be of any integer type and have an axis of length 1 for the classes; targets of the outputs' own shape are shares of
    classes, one-hot or soft.

    >>> class_targets(torch.zeros(2, 3), torch.tensor([[2], [0]], dtype=torch.int32))
    tensor([2, 0])
    >>> class_targets(torch.zeros(1, 3), torch.tensor([[0, 1, 0]]))
    tensor([[0., 1., 0.]])
    """
    if targets.is_complex():
        return targets
    if targets.shape == outputs.shape and outputs.dim() > 1:
        return targets.to(outputs.dtype)
    if targets.dim() == outputs.dim() > 1 and targets.shape[1] == 1 and not targets.is_floating_point():
        targets = targets.squeeze(1)
    return targets if targets.is_floating_point() or targets.dtype == torch.int64 else targets.long()


def number_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the shape of the outputs, where the two differ by axes of length 1 alone.

    >>> number_targets(torch.zeros(2, 1), torch.tensor([0.5, 1.0])).shape
    torch.Size([2, 1])
    """
    if targets.shape != outputs.shape and _rest(targets) == _rest(outputs) and targets.shape[:1] == outputs.shape[:1]:
        return targets.reshape(outputs.shape)
    return targets


def _rest(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape[1:] if size != 1]
