"""Gradients with respect to what a network returns, and back from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gngraph.curvature.losses import Loss
from gngraph.curvature.outputs import Outputs, leaves, replaced
from gngraph.errors import GnGraphError


def gradient(loss: Loss, outputs: Outputs, targets: Any) -> tuple[Tensor, Outputs]:
    """The losses [N] and the cotangent that is the gradient of their sum, both without gradient.

    Args:
        loss: of a sample each.
        outputs: what the network gave for N samples.
        targets: of the same samples.

    Raises:
        GnGraphError: the loss does not depend on the outputs, or only in a way that has no gradient.
    """
    tensors = leaves(outputs)
    with torch.enable_grad():
        inputs = {path: t.detach().requires_grad_() for path, t in tensors.items() if t.is_floating_point()}
        losses = loss.per_sample(replaced(outputs, {**tensors, **inputs}), targets)
        if not losses.requires_grad:
            raise GnGraphError(
                f'loss "{loss.name}" has no gradient with respect to the outputs: compute it from them by '
                "differentiable operations, without detach() or no_grad()"
            )
        slopes = torch.autograd.grad(losses.sum(), list(inputs.values()), allow_unused=True)
    found = {path: slope for path, slope in zip(inputs, slopes, strict=True) if slope is not None}
    return losses.detach(), replaced(outputs, found)


def pull_back(
    outputs: Outputs, cotangent: Outputs, inputs: Sequence[Tensor], *, retain_graph: bool
) -> list[Tensor | None]:
    """The gradient of <cotangent, outputs> with respect to each of `inputs`, by one backward pass; None where it is 0.

    Args:
        outputs: of a graph of autograd that reaches `inputs`.
        cotangent: as the outputs are nested; a tensor that it lacks counts as 0.
        inputs: tensors that require gradients.
        retain_graph: whether another backward pass follows.
    """
    sent = leaves(cotangent)
    heads = [(tensor, sent[path]) for path, tensor in leaves(outputs).items() if path in sent and tensor.requires_grad]
    if not heads or not inputs:
        return [None] * len(inputs)
    tensors, cotangents = zip(*heads, strict=True)
    return list(
        torch.autograd.grad(tensors, inputs, grad_outputs=cotangents, retain_graph=retain_graph, allow_unused=True)
    )
