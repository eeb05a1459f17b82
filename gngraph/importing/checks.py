"""What an import refuses before it looks further: what would be lost between tracing and lowering, with the way out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize

from gngraph.errors import UnsupportedModelError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GRADIENT_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def check_module(module: nn.Module) -> None:
    """Refuse hooks, parametrizations, scripted and lazy modules, and tensors that share memory.

    Raises:
        UnsupportedModelError: names the module or parameter and the remedy.
    """
    for name in _HOOKS:
        if getattr(torch_modules, f"_global{name}", None):
            raise UnsupportedModelError(
                f"hooks for all modules are registered in torch ({name.strip('_')}), which tracing would lose; remove them first"
            )
    for path, child in module.named_modules():
        where = f"module '{path or type(child).__name__}' ({type(child).__name__})"
        if isinstance(child, torch.jit.ScriptModule):
            raise UnsupportedModelError(f"{where} is scripted; pass the original nn.Module instead of TorchScript")
        if parametrize.is_parametrized(child):
            raise UnsupportedModelError(
                f"{where} has parametrized weights; call torch.nn.utils.parametrize.remove_parametrizations first"
            )
        hooks = [name for name in _HOOKS if getattr(child, name, None)]
        if hooks:
            raise UnsupportedModelError(f"{where} has hooks ({hooks[0]}), which tracing would lose; remove them first")
        for name, parameter in child.named_parameters(recurse=False):
            if isinstance(parameter, nn.UninitializedParameter):
                raise UnsupportedModelError(
                    f"{where} has the uninitialised parameter '{name}'; run the model once first"
                )
            if any(getattr(parameter, table, None) for table in _GRADIENT_HOOKS):
                raise UnsupportedModelError(
                    f"parameter '{f'{path}.{name}'.strip('.')}' has a hook that changes or reads its gradient, which a graph "
                    f"would train without; remove it, or freeze the parameter by requires_grad_(False) if that is what it is for"
                )
    _refuse_shared_memory(module)


def _refuse_shared_memory(module: nn.Module) -> None:
    """Refuse parameters that are trained and lie in the memory of another tensor: a step on one changes the other."""
    places: dict[int, list[tuple[int, int, str, bool]]] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.numel() and tensor.layout is torch.strided:
            size = tensor.element_size()
            first = int(tensor.storage_offset()) * size
            reach = int(sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)))
            place = first, first + (reach + 1) * size, name, tensor.requires_grad
            places.setdefault(tensor.untyped_storage()._cdata, []).append(place)
    for held in places.values():
        held.sort()
        for (_, end, one, trained), (start, _, other, trained_too) in pairwise(held):
            if start < end and (trained or trained_too):
                raise UnsupportedModelError(
                    f"'{one}' and '{other}' share memory without being one parameter, so that a step on one changes the other; tie "
                    f"them as one (b.weight = a.weight), or give each memory of its own (clone)"
                )
