"""Norms over the batch that see the whole of it, where each process has a share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gngraph.ranks.group import Ranks

_OF_MODULES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_OF_TORCH = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")


def whole_batches(ranks: Ranks) -> AbstractContextManager[object]:
    """Batch norms in train mode take mean and variance over the rows of all processes inside, and pass gradients through them.

    Torch's own SyncBatchNorm does so on GPUs alone. Whatever calls `batch_norm` is met, be it a module or a function.

    Args:
        ranks: whose shares are one batch; one process computes as torch does.
    """
    return nullcontext() if ranks.size == 1 else _Synchronised(ranks)


class _Synchronised(TorchFunctionMode):
    """Calls of `batch_norm` are met."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """A function of torch."""
        kwargs = kwargs or {}
        names = {functional.batch_norm: _OF_MODULES, torch.batch_norm: _OF_TORCH}.get(func)
        if names is not None:
            given = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
            given |= dict(zip(names, args, strict=False)) | dict(kwargs)
            if given["training"]:
                return _normalised(self._ranks, given)
        return func(*args, **kwargs)


def _normalised(ranks: Ranks, given: Mapping[str, Any]) -> Tensor:
    x: Tensor = given["input"]
    axes = [axis for axis in range(x.dim()) if axis != 1]
    rows = x.new_tensor([x.numel() // x.shape[1] if x.shape[1] else 0])
    count = float(ranks.total(rows)[0])
    if count < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
    wide = (1, -1, *[1] * (x.dim() - 2))
    mean: Tensor = _Total.apply(ranks, x.sum(axes)) / count
    centred = x - mean.view(wide)
    variance: Tensor = _Total.apply(ranks, centred.square().sum(axes)) / count
    with torch.no_grad():
        momentum = given["momentum"]
        for kept, found in (("running_mean", mean), ("running_var", variance * (count / (count - 1)))):
            if given[kept] is not None:
                given[kept].mul_(1 - momentum).add_(found.to(given[kept].dtype), alpha=momentum)
    y: Tensor = centred * (variance + given["eps"]).rsqrt().view(wide)
    if given["weight"] is not None:
        y = y * given["weight"].view(wide)
    if given["bias"] is not None:
        y = y + given["bias"].view(wide)
    return y


class _Total(torch.autograd.Function):
    """A sum over all processes, as is the gradient of what follows from it in each."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, own: Tensor) -> Tensor:
        ctx.ranks = ranks
        return ranks.total(own.clone())[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.ranks.total(gradient.contiguous())[0]
