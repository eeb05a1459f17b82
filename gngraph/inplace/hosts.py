"""A module that somebody else holds: what it is wrapped in, twins of it, and its tensors by the names of its graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.copies import copy_of
from gngraph.ir import Graph

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Tables of a module's hooks on forward and backward."""

_COMPILED = "_compiled_call_impl"
"""Where `module.compile()` keeps the compiled call, which a copy would share with the module."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile` or `DataParallel`, which go on with what it becomes.

    Raises:
        UnsupportedModelError: what wraps it keeps parameters by their sizes, or a hook computes weights.
    """
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.DataParallel):
            model = model.module
        else:
            break
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UnsupportedModelError(
            "DistributedDataParallel keeps buckets of gradients by the sizes of parameters; give its 'module', and wrap that again "
            "after a step: ddp = DistributedDataParallel(ddp.module)"
        )
    for path, child in model.named_modules():
        if "FullyShardedDataParallel" in type(child).__name__ or type(child).__name__.startswith("FSDP"):
            raise UnsupportedModelError(
                f"module '{path or type(child).__name__}' is sharded (FSDP), so that no process has its weights; grow it before it "
                f"is sharded"
            )
        for hook in child._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils"):
                raise UnsupportedModelError(
                    f"a hook of module '{path}' ({type(hook).__name__}) computes its weights before every forward; remove it "
                    f"first (torch.nn.utils.remove_weight_norm and the like)"
                )
    return model


@contextmanager
def without_hooks(module: nn.Module) -> Iterator[None]:
    """Hooks and compiled calls of a module, and of those in it, are laid aside inside."""
    laid_aside: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for child in module.modules():
            held = vars(child)
            own = {name: held[name] for name in (*_HOOKS, _COMPILED) if held.get(name)}
            laid_aside.append((held, own))
            held.update({name: None if name == _COMPILED else OrderedDict() for name in own})
        yield
    finally:
        for held, own in laid_aside:
            held.update(own)


def twin_of(module: nn.Module) -> nn.Module:
    """A copy on the CPU with tensors of its own and without hooks, which only look on.

    Raises:
        UnsupportedModelError: the module holds something that cannot be copied.
    """
    with without_hooks(module):
        twin = copy_of(module)
    return twin.cpu()


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part is in the mode that it was in."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for child, training in modes:
            child.training = training


def tensors_of(module: nn.Module, graph: Graph) -> dict[str, torch.Tensor]:
    """The module's own tensors by the names that its graph has for them; what a forward makes itself is not among them."""
    found = ((name, _tensor_at(module, name)) for name in graph.params)
    return {name: tensor for name, tensor in found if tensor is not None}


def _tensor_at(module: nn.Module, name: str) -> torch.Tensor | None:
    path, _, key = name.rpartition(".")
    try:
        held = getattr(module.get_submodule(path), key)
    except AttributeError:
        return None
    return held if isinstance(held, torch.Tensor) else None


@torch.no_grad()
def put(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Give a tensor other values, of any shape; it stays the same object, with its hooks, on its device, laid out as it was.

    A gradient that it has is left as it is.

    Args:
        tensor: a parameter or buffer.
        data: a tensor that nothing else changes.
    """
    new = data.to(tensor.device, tensor.dtype)
    if new.dim() == 4 and tensor.dim() == 4 and _channels_last(tensor):
        new = new.contiguous(memory_format=torch.channels_last)
    if tensor.requires_grad and new.shape != tensor.shape:
        # A loss that is still held keeps the node that accumulates the gradient, which knows the former shape; a change of the
        # dtype lets go of it.
        other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = new


def _channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
