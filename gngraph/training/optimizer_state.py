"""Optimiser state by parameter name, so that it survives a rewrite of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from gngraph.errors import TrainingError
from gngraph.ir import Graph, Parameter
from gngraph.rewrite.surgery import Gather, Rewritten, carry

POWERS: Mapping[str, int] = {
    "momentum_buffer": 1,
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "exp_inf": 1,
    "square_avg": 2,
    "grad_avg": 1,
    "acc_delta": 0,
    "sum": 2,
    "prev": 1,
    "step_size": 0,
    "row_var": 2,
    "col_var": 2,
    "variance": 2,
}
"""Entry of one of torch's optimisers -> the power of the gradient that it averages."""


DECAY = "decay"
"""Entry beside SGD's momentum: the share of the weight that its decay has brought in, see `extract`."""


@dataclass(frozen=True)
class OptimizerState:
    """What an optimiser remembers.

    Attributes:
        entries: parameter name -> entry -> tensor, of the parameter's shape (where it is a mean over an axis, 1 there), else a
            scalar.
        powers: entry -> the power of the gradient that it averages; others are taken to scale with none.
    """

    entries: Mapping[str, Mapping[str, torch.Tensor]]
    powers: Mapping[str, int] = field(default_factory=lambda: POWERS)


def extract(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], steps: int) -> OptimizerState:
    """A copy of what `optimizer` remembers of each parameter, on the CPU; parameters never stepped are left out.

    SGD adds decay * weight to each gradient, so that its momentum holds, beside gradients, decay * (1 + b + b^2 + ...) times the
    weight, for a momentum b and a term a step: exactly so while the weight stays as it is. This share is kept along.

    Args:
        optimizer: one of torch's that keep a state by parameter.
        parameters: by name.
        steps: how many it made since it was built, or its state restored.
    """
    held = remembered(optimizer, parameters)
    entries = {name: dict(own) for name, own in held.entries.items()}
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, tensors in entries.items():
        if "momentum_buffer" in tensors and isinstance(optimizer, torch.optim.SGD):
            group = groups[id(parameters[name])]
            faded = group["momentum"] ** steps
            gained = group["weight_decay"] * (1 - group["dampening"]) * (1 - faded) / (1 - group["momentum"])
            tensors[DECAY] = faded * tensors.get(DECAY, torch.zeros((), dtype=torch.float64)) + gained
    return replace(held, entries=entries)


def remembered(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> OptimizerState:
    """A copy of what `optimizer` remembers, as it is: `restore` lets the same steps go on from it.

    Args:
        optimizer, parameters: see `extract`.
    """
    entries = {}
    for name, parameter in parameters.items():
        held = optimizer.state.get(parameter, {})
        tensors = {k: v.detach().cpu().clone() for k, v in held.items() if isinstance(v, torch.Tensor)}
        if tensors:
            entries[name] = tensors
    # RMSprop sums up gradients divided by their size
    scaled = {"momentum_buffer": 0} if isinstance(optimizer, torch.optim.RMSprop) else {}
    return OptimizerState(entries, {**POWERS, **scaled})


def carry_state(state: OptimizerState, graph: Graph, rewritten: Rewritten) -> OptimizerState:
    """The state after a rewrite: what training the rewritten network would have left behind.

    For exact twins, and weights that stay, this holds to rounding: copies of a written channel receive half of the gradient
    each, copies of a read channel all of it, and both decay as the weights that they have. New channels start at 0 but for the
    decay, and step counts are kept. Parameters that are copies of others remember what those do.

    Args:
        state: of the parameters before the rewrite.
        graph: before the rewrite.
        rewritten: what became of it.

    Raises:
        TrainingError: an entry is laid out otherwise than its parameter.
    """
    carried: dict[str, Mapping[str, torch.Tensor]] = {}
    for name, entries in state.entries.items():
        moves = tuple(_on_cpu(g) for g in rewritten.gathers.get(name, ()))
        if not moves:
            carried[name] = entries
            continue
        gradients = dict(entries)
        if DECAY in entries:
            gradients["momentum_buffer"] = entries["momentum_buffer"] - _decay(entries, graph.params[name])
        old = graph.params[name].data.shape
        moved = {
            key: _carried(name, key, value, old, moves, state.powers.get(key, 0)) for key, value in gradients.items()
        }
        if DECAY in entries:
            moved["momentum_buffer"] = moved["momentum_buffer"] + _decay(entries, rewritten.graph.params[name])
        carried[name] = moved
    carried |= {new: carried[old] for new, old in rewritten.copies.items() if old in carried}
    return OptimizerState(carried, state.powers)


def restore(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: OptimizerState) -> None:
    """Give `optimizer` a copy of `state`, on each parameter's device; parameters without an entry start afresh.

    Args:
        optimizer: of these parameters.
        parameters: by their names in the graph.
        state: by the same names.

    Raises:
        TrainingError: an entry does not have its parameter's shape.
    """
    for name, entries in state.entries.items():
        parameter = parameters.get(name)
        if parameter is None:
            continue
        for key, value in entries.items():
            if key in POWERS and value.shape != parameter.shape:
                raise TrainingError(
                    f"optimiser entry '{key}' of parameter '{name}' has shape {tuple(value.shape)}, but the parameter "
                    f"has shape {tuple(parameter.shape)}; carry the state through the rewrite by carry_state"
                )
        # step counts stay on the CPU, where torch's default optimisers keep them
        optimizer.state[parameter] = {
            key: value.to(parameter.device).clone() if key in POWERS or value.dim() else value.clone()
            for key, value in entries.items()
        }


def _decay(entries: Mapping[str, torch.Tensor], parameter: Parameter) -> torch.Tensor:
    """What the decay of a weight has brought into its momentum."""
    momentum = entries["momentum_buffer"]
    return parameter.data.to(momentum) * entries[DECAY].to(momentum.dtype)


def _carried(
    name: str, key: str, value: torch.Tensor, shape: torch.Size, gathers: tuple[Gather, ...], power: int
) -> torch.Tensor:
    if value.dim() == 0:
        return value
    if value.dim() != len(shape) or any(a not in (1, b) for a, b in zip(value.shape, shape, strict=True)):
        raise TrainingError(
            f"optimiser entry '{key}' of parameter '{name}' has shape {tuple(value.shape)}, not that of the parameter, "
            f"{tuple(shape)}, and cannot be carried"
        )
    whole = {axis for axis, size in enumerate(shape) if value.shape[axis] == size}
    return carry(value, tuple(gather for gather in gathers if gather.axis in whole), power)


def _on_cpu(gather: Gather) -> Gather:
    return Gather(gather.axis, gather.index.cpu(), gather.factor.cpu(), gather.backward.cpu())
