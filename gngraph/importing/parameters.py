"""The parameters and buffers of a module as those of a graph: one for every tensor, with all of its names."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.ir import Parameter


def parameters_of(module: nn.Module) -> tuple[dict[str, Parameter], dict[str, str]]:
    """Parameters by canonical name in state_dict order, as the module's own tensors, and the canonical name of every name.

    Args:
        module: the root.

    Raises:
        UnsupportedModelError: its state_dict holds something else than tensors.
    """
    persistent = module.state_dict(keep_vars=True)
    for key, value in persistent.items():
        if not isinstance(value, torch.Tensor):
            raise UnsupportedModelError(
                f"the state_dict entry '{key}' is not a tensor; gngraph cannot carry extra state"
            )
    held = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    order = [*persistent, *(name for name in buffers if name not in persistent)]
    params: dict[str, Parameter] = {}
    canonical: dict[str, str] = {}
    first: dict[int, str] = {}
    for position, name in enumerate(order):
        tensor = held.get(name, buffers.get(name))
        assert tensor is not None
        canonical[name] = first.setdefault(id(tensor), name)
        if canonical[name] != name:
            old = params[canonical[name]]
            params[canonical[name]] = replace(old, aliases=(*old.aliases, (name, position)))
        elif name in held:
            params[name] = Parameter(tensor.detach(), "parameter", tensor.requires_grad)
        else:
            params[name] = Parameter(tensor.detach(), "buffer" if name in persistent else "constant", False)
    return params, canonical
