"""The optimisers that training can use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from gngraph.options import TrainOptions


def fresh_optimizer(options: TrainOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser of `parameters` that remembers nothing."""
    if options.optimizer == "sgd":
        nesterov = options.momentum > 0
        return torch.optim.SGD(
            parameters, options.rate, options.momentum, weight_decay=options.weight_decay, nesterov=nesterov
        )
    return torch.optim.AdamW(parameters, options.rate, weight_decay=options.weight_decay)
