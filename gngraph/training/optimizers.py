"""The optimisers that training can use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from gngraph.calling import CallError, called
from gngraph.errors import OptionError
from gngraph.options import TrainOptions


def fresh_optimizer(options: TrainOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser of `parameters` that remembers nothing.

    Raises:
        OptionError: a function of the user's own fails, or makes none that a step can be taken with.
    """
    if options.optimizer == "sgd":
        nesterov = options.momentum > 0
        return torch.optim.SGD(
            parameters, options.rate, options.momentum, weight_decay=options.weight_decay, nesterov=nesterov
        )
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, options.rate, weight_decay=options.weight_decay)
    return _own(options.optimizer, list(parameters), options.rate)


def require_optimizer(options: TrainOptions) -> None:
    """Refuse options whose optimiser cannot be made, before anything is trained.

    Raises:
        OptionError: it cannot.
    """
    fresh_optimizer(options, [nn.Parameter(torch.zeros(2, 2))])


def _own(text: str, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    try:
        made = called(text, parameters, lr=rate)
    except CallError as error:
        raise OptionError(
            f"the optimizer '{text}' could not be made: {error}; it is called with a list of parameters and lr={rate:g}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise OptionError(
            f"the optimizer '{text}' is a '{type(made).__name__}', but must be a torch.optim.Optimizer whose step takes no closure"
        )
    return made
