"""Recurrent layers whose reads of their own states can be asked for gradients, as other layers' reads of values can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gngraph.ir import Graph, Node
from gngraph.ops import lookup


class Stepwise(nn.Module):
    """A recurrent layer in eval mode, step by step.

    To each state that a weight reads a probe of zeros is added, whose gradient is that of this read alone: a unit of the state
    reaches the loss by what reads the layer as well, and by its own gates.

    Args:
        graph: the network.
        node: of it, with a module of its own.
    """

    def __init__(self, graph: Graph, node: Node) -> None:
        super().__init__()
        self.node = node
        self.held = {role: graph.params[param].data for role, param in node.params.items()}
        self._read: dict[str, dict[int | None, torch.Tensor]] = {}
        self._probes: dict[str, torch.Tensor] = {}
        self._length = 0

    def forward(self, x: torch.Tensor, hx: Any = None) -> Any:
        """What the layer gives for x [N, T, F], or [T, N, F] where it is not batch first."""
        run = lookup(self.node.op).stepwise
        assert run is not None
        self._read, self._probes = {}, {}
        self._length = x.shape[1 if self.node.attrs["batch_first"] else 0]
        return run(self.node, self.held, x, hx, self._probed)

    def taken(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """For each weight that reads a state: its role, what it read in the last call and the probes, [N, T, channels] both."""
        for role, own in self._read.items():
            whole = own[None] if None in own else torch.stack([own[step] for step in range(self._length)], 1)
            yield role, whole, self._probes[role]

    def _probed(self, role: str, state: torch.Tensor, step: int | None) -> torch.Tensor:
        self._read.setdefault(role, {})[step] = state
        if role not in self._probes:
            shape = state.shape if step is None else (len(state), self._length, state.shape[1])
            self._probes[role] = state.new_zeros(shape).requires_grad_()
        probe = self._probes[role]
        return state + (probe if step is None else probe[:, step])
