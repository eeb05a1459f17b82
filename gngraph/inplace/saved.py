"""What a step changes, as it was before."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gngraph.inplace.hosts import put
from gngraph.inplace.numbers import NumberAt
from gngraph.inplace.stacking import Stacked, forget


class Saved:
    """Copies of a network's tensors and gradients, and of what optimisers remember of them.

    Args:
        module: the network.
        tensors: its parameters and buffers, by name.
        optimizers: of the network.

    Attributes:
        numbers: attributes that a step has changed, with their former values.
        stacked: copies of blocks that a step has added.
        new: parameters that are new with them.
    """

    def __init__(
        self, module: nn.Module, tensors: Mapping[str, torch.Tensor], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self._module = module
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
        self._gradients = [(tensor, tensor.grad) for tensor in tensors.values()]
        self._states: list[tuple[Any, Any, Any]] = []
        for optimizer in optimizers:
            for tensor in tensors.values():
                if tensor in optimizer.state:
                    self._states.append((optimizer, tensor, copy.deepcopy(optimizer.state[tensor])))
        self._optimizers = optimizers
        self.numbers: dict[NumberAt, object] = {}
        self.stacked: Stacked | None = None
        self.new: tuple[torch.Tensor, ...] = ()

    @torch.no_grad()
    def restore(self) -> None:
        """Put all back, into the same objects."""
        if self.stacked is not None:
            self.stacked.undo()
        for optimizer in self._optimizers:
            forget(optimizer, self.new)
        for tensor, data in self._tensors:
            if tensor.shape == data.shape:
                tensor.copy_(data)
            else:
                put(tensor, data)
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        for optimizer in self._optimizers:
            for tensor, _ in self._tensors:
                optimizer.state.pop(tensor, None)
        for optimizer, tensor, state in self._states:
            optimizer.state[tensor] = state
        for place, value in self.numbers.items():
            vars(self._module.get_submodule(place.path))[place.attribute] = value
