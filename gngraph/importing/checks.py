"""What an import refuses before it looks further: what would be lost between tracing and lowering, with the way out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.weight_norm import WeightNorm

from gngraph.errors import UnsupportedModelError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GRADIENT_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


_SHARDED = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"

_QUANTISED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.quantizable")
"""Where quantised modules are; FloatFunctional is one of them by its name alone: it is plain arithmetic until it is converted."""


def check_module(module: nn.Module) -> None:
    """Refuse what is no module, hooks, scripted, quantised, sharded and lazy modules.

    Raises:
        UnsupportedModelError: names the module or parameter and the remedy.
    """
    if not isinstance(module, nn.Module):
        found = f"the class '{module.__name__}'" if isinstance(module, type) else f"a '{type(module).__name__}'"
        raise UnsupportedModelError(f"a network is an nn.Module, but {found} was given; make the module and pass it")
    for name in _HOOKS:
        if getattr(torch_modules, f"_global{name}", None):
            raise UnsupportedModelError(
                f"hooks for all modules are registered in torch ({name.strip('_')}), which tracing would lose; remove them first"
            )
    for path, child in module.named_modules():
        where = f"module '{path or type(child).__name__}' ({type(child).__name__})"
        if isinstance(child, torch.jit.ScriptModule):
            raise UnsupportedModelError(f"{where} is scripted; pass the original nn.Module instead of TorchScript")
        if type(child).__module__.startswith(_QUANTISED) and type(child).__name__ != "FloatFunctional":
            raise UnsupportedModelError(
                f"{where} is a quantised module, whose weights are not trained as they are; pass the network as it was before "
                f"and quantise what gngraph makes of it"
            )
        if any(f"{base.__module__}.{base.__qualname__}" == _SHARDED for base in type(child).__mro__):
            raise UnsupportedModelError(
                f"{where} is sharded by FSDP, so that no process has all of its weights; gather its state_dict and load that into "
                f"the plain module"
            )
        for name, tensor in (*child._parameters.items(), *child._buffers.items()):
            if tensor is not None:
                _check_values(tensor, f"'{f'{path}.{name}'.strip('.')}'", where)
        for table in _HOOKS:
            kinds = [type(hook) for hook in getattr(child, table, {}).values() if not is_traced(hook)]
            if kinds:
                named = table if kinds[0] in (FunctionType, MethodType) else f"{table}: {kinds[0].__name__}"
                raise UnsupportedModelError(f"{where} has hooks ({named}), which tracing would lose; remove them first")
        for name, parameter in child.named_parameters(recurse=False):
            if any(getattr(parameter, table, None) for table in _GRADIENT_HOOKS):
                raise UnsupportedModelError(
                    f"parameter '{f'{path}.{name}'.strip('.')}' has a hook that changes or reads its gradient, which a graph "
                    f"would train without; remove it, or freeze the parameter by requires_grad_(False) if that is what it is for"
                )


def is_traced(hook: Any) -> bool:
    """Whether a hook is part of what a module computes, as that of `torch.nn.utils.weight_norm`, by which its weight is made.

    Args:
        hook: of a module.
    """
    return type(hook) is WeightNorm


def refuse_shared_memory(module: nn.Module, others: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse what training changes, parameters and statistics of norms, where it lies in the memory of another tensor.

    Args:
        module: the network.
        others: tensors that its forward may read beside parameters and buffers, by name.

    Raises:
        UnsupportedModelError: both are named.
    """
    norms = [child for child in module.modules() if isinstance(child, _NormBase)]
    changing = {id(tensor) for norm in norms for tensor in norm._buffers.values()}
    places: dict[int, list[tuple[int, int, str, bool]]] = {}
    seen: set[int] = set()
    for name, tensor in (*module.named_parameters(), *module.named_buffers(), *others):
        if id(tensor) not in seen and tensor.layout is torch.strided and not tensor.is_meta and tensor.numel():
            seen.add(id(tensor))
            size = tensor.element_size()
            first = int(tensor.storage_offset()) * size
            reach = int(sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)))
            trained = tensor.requires_grad or id(tensor) in changing
            place = first, first + (reach + 1) * size, name, trained
            places.setdefault(tensor.untyped_storage()._cdata, []).append(place)
    for held in places.values():
        held.sort()
        for (_, end, one, trained), (start, _, other, trained_too) in pairwise(held):
            if start < end and (trained or trained_too):
                raise UnsupportedModelError(
                    f"'{one}' and '{other}' share memory without being one parameter, so that a step on one changes the other; tie "
                    f"them as one (b.weight = a.weight), or give each memory of its own (clone)"
                )


def _check_values(tensor: torch.Tensor, named: str, where: str) -> None:
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        raise UnsupportedModelError(f"{where} has the uninitialised parameter {named}; run the model once first")
    if tensor.is_meta:
        raise UnsupportedModelError(
            f"{named} is on the meta device and has no values; load weights into the module first (to_empty, load_state_dict)"
        )
    if hasattr(tensor, "full_tensor"):
        raise UnsupportedModelError(
            f"{named} is sharded over processes (a DTensor); gather the state_dict and load it into the plain module"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise UnsupportedModelError(
            f"{named} is a sparse or quantised tensor, which a graph cannot hold; make it a dense one (to_dense, dequantize)"
        )
