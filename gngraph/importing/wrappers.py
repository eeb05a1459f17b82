"""Wrappers that run a module as it is: taken off, for what they add is for training loops and not part of a network."""

from __future__ import annotations

from typing import Any

from torch import nn

_WRAPPED_AS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
    "ema_pytorch.ema_pytorch.EMA": "ema_model",
    "deepspeed.runtime.engine.DeepSpeedEngine": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Classes by their paths, for none of their libraries is to be imported, with the attribute that holds what they wrap."""


def bare(module: nn.Module) -> nn.Module:
    """The module itself, or what stands inside its wrappers. A class derived from one with a forward of its own is none.

    >>> bare(nn.DataParallel(nn.Linear(3, 2)))
    Linear(in_features=3, out_features=2, bias=True)
    """
    base: Any
    for base in type(module).__mro__:
        attribute = _WRAPPED_AS.get(f"{base.__module__}.{base.__qualname__}")
        inner = getattr(module, attribute, None) if attribute is not None else None
        if isinstance(inner, nn.Module) and type(module).forward is base.forward:
            return bare(inner)
    return module
