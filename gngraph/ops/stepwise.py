"""Recurrent layers step by step, as torch's arithmetic has it, so that each read of a state can be seen, and changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from gngraph.ir import Node

OWN_STATE = -1
"""What a weight reads that reads no input, but what its node computed a step before."""


PASSED_BY = -2
"""What a weight reads that its node also hands on past it, so that no gradient tells the two apart."""


OF_SEVERAL = -3
"""What a weight reads that other weights of its node read too, or hold: it is put together of several."""


def first_input(node: Node, role: str) -> int | None:
    """For ops whose weights read the first input."""
    return 0


class Read(Protocol):
    """Sees what a weight reads of the layer's own states, and gives what it is to read."""

    def __call__(self, role: str, state: torch.Tensor, step: int | None) -> torch.Tensor:
        """What the weight `role` reads in place of `state`: [N, H] at a step, [N, T, H] of all where `step` is None."""


def stepwise(node: Node, params: Mapping[str, torch.Tensor], x: torch.Tensor, hx: Any, read: Read) -> tuple[Any, Any]:
    """What a recurrent layer gives in eval mode; equal to torch's to rounding. O(T) calls a layer and direction.

    Args:
        node: an LSTM, GRU or RNN without projection.
        params: its tensors by role.
        x: [N, T, F], or [T, N, F] where the node is not batch first.
        hx: the first states as the layer takes them, or None for zeros.
        read: is asked for all that weights read of states, those of the layer below among them.

    Returns:
        (values of all steps, last states), as torch gives them.
    """
    first, attrs = bool(node.attrs["batch_first"]), node.attrs
    sequence = x if first else x.transpose(0, 1)
    given = hx if isinstance(hx, tuple | list) else (hx,)
    directions, last = 1 + bool(attrs["bidirectional"]), []
    for layer in range(int(attrs["num_layers"])):
        sides = []
        for side, end in enumerate(("", "_reverse")[:directions]):
            suffix, place = f"l{layer}{end}", layer * directions + side
            below = sequence if layer == 0 else read(f"weight_ih_{suffix}", sequence, None)
            states = tuple(None if state is None else state[place] for state in given)
            values, states = _one_way(node, params, suffix, below, states, read)
            sides.append(values)
            last.append(states)
        sequence = torch.cat(sides, 2) if directions > 1 else sides[0]
    stacked = tuple(torch.stack(own) for own in zip(*last, strict=True))
    return (sequence if first else sequence.transpose(0, 1)), (stacked if node.op == "lstm" else stacked[0])


def _one_way(
    node: Node, params: Mapping[str, torch.Tensor], suffix: str, x: torch.Tensor, states: tuple[Any, ...], read: Read
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """One direction of one layer: [N, T, H] and the last states, [N, H] each."""
    inward, own = params[f"weight_ih_{suffix}"], params[f"weight_hh_{suffix}"]
    bias_in, bias_own = params.get(f"bias_ih_{suffix}"), params.get(f"bias_hh_{suffix}")
    h = states[0] if states[0] is not None else x.new_zeros(len(x), own.shape[1])
    c = states[1] if len(states) > 1 and states[1] is not None else torch.zeros_like(h)
    driven = torch.nn.functional.linear(x, inward, bias_in)
    values: dict[int, torch.Tensor] = {}
    steps = range(x.shape[1])
    for step in reversed(steps) if suffix.endswith("_reverse") else steps:
        fed = torch.nn.functional.linear(read(f"weight_hh_{suffix}", h, step), own, bias_own)
        if node.op == "lstm":
            i, f, g, o = (driven[:, step] + fed).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        elif node.op == "gru":
            (a, b, d), (r, z, n) = driven[:, step].chunk(3, 1), fed.chunk(3, 1)
            z = torch.sigmoid(b + z)
            h = (1 - z) * torch.tanh(d + torch.sigmoid(a + r) * n) + z * h
        else:
            squash = torch.relu if node.attrs["nonlinearity"] == "relu" else torch.tanh
            h = squash(driven[:, step] + fed)
        values[step] = h
    return torch.stack([values[step] for step in steps], 1), ((h, c) if node.op == "lstm" else (h,))
