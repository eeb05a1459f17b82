"""A user's optimisers follow a rewrite: what they remember of each parameter is carried into its new shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.rewrite.surgery import Rewritten
from gngraph.training.optimizer_state import DECAY, POWERS, OptimizerState, carry_state, extract

LONG = 10**6
"""Steps that an optimiser is taken to have made: the share of the decay in its momentum has settled."""


def check_optimizer(optimizer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse what is no optimiser of these tensors, or one whose memory has no place for each of them.

    Args:
        optimizer: torch's, or what wraps one.
        tensors: of the network, by name.

    Raises:
        TrainingError: in one sentence.
    """
    if not hasattr(optimizer, "param_groups") or not hasattr(optimizer, "state"):
        raise TrainingError(f"a step follows optimisers of torch, not a '{type(optimizer).__name__}'")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TrainingError(
            "LBFGS remembers one vector of all parameters, which cannot be carried; make a new one instead"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(tensor) in held for tensor in tensors.values()):
        raise TrainingError(
            f"the optimiser ({type(optimizer).__name__}) holds no parameter of the network; make it of model.parameters()"
        )


def carry_into(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], before: Graph, rewritten: Rewritten
) -> list[str]:
    """Carry what an optimiser remembers into the parameters' new shapes; its groups hold the same objects as before.

    Entries of unknown meaning that have a parameter's shape are copied with their channels. What is laid out otherwise starts
    afresh, for that parameter.

    Args:
        optimizer: which has made the steps before the rewrite.
        tensors: the parameters by name, rewritten or not.
        before: the graph before the rewrite.
        rewritten: what became of it.

    Returns:
        What a user should know, in words.
    """
    moved = {name: t for name, t in tensors.items() if rewritten.gathers.get(name) and t in optimizer.state}
    notes: list[str] = []
    for name, parameter in moved.items():
        state = extract(optimizer, {name: parameter}, LONG)  # type: ignore[dict-item]
        unknown = [k for k, v in state.entries.get(name, {}).items() if v.dim() and k not in POWERS]
        try:
            carried = carry_state(OptimizerState(state.entries), before, rewritten).entries.get(name, {})
        except TrainingError as error:
            optimizer.state.pop(parameter)
            notes.append(f"the optimiser starts afresh for '{name}': {error}")
            continue
        held = optimizer.state[parameter]
        for key, value in carried.items():
            if key != DECAY and value.dim():
                held[key] = value.to(held[key].device, held[key].dtype)
        if unknown:
            notes.append(f"entries '{', '.join(unknown)}' of the optimiser are copied with the channels of '{name}'")
    return notes
