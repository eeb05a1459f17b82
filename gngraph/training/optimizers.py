"""The optimisers that training can use, and the schedules of their rates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from gngraph.calling import CallError, called
from gngraph.errors import OptionError
from gngraph.options import TrainOptions
from gngraph.training.stretch import Stretch


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


class StretchRates:
    """The learning rates of a stretch of training: those of the optimiser's groups times the factor of the stretch.

    Args:
        optimizer: new, at its full rate.
        stretch: how they change.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, stretch: Stretch) -> None:
        self._optimizer, self._stretch = optimizer, stretch
        self._full = [float(group["lr"]) for group in optimizer.param_groups]

    def begin(self, epoch: float) -> float:
        """Set the rates of a step; returns that of the first group.

        Args:
            epoch: of the stretch, with its fraction.
        """
        factor = self._stretch.factor(epoch)
        for group, full in zip(self._optimizer.param_groups, self._full, strict=True):
            group["lr"] = full * factor
        return self._full[0] * factor

    def end(self) -> None:
        """The step was made."""


class OwnRates:
    """The rates as a scheduler of the user's own sets them.

    Args:
        options: name it.
        optimizer: new, at its full rate.
        share: of that, that it begins at.
        steps: of the stretch.

    Raises:
        OptionError: it cannot be made, or is no scheduler that goes by steps alone.
    """

    def __init__(self, options: TrainOptions, optimizer: torch.optim.Optimizer, share: float, steps: int) -> None:
        self._optimizer = optimizer
        for group in optimizer.param_groups:
            group["lr"] *= share
        text = str(options.scheduler)
        try:
            made = called(text, optimizer, steps)
        except CallError as error:
            raise OptionError(
                f"the scheduler '{text}' could not be made: {error}; it is called with the optimizer and the number of steps"
            ) from error
        plateau = isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau)
        if not isinstance(made, torch.optim.lr_scheduler.LRScheduler) or plateau:
            raise OptionError(
                f"the scheduler '{text}' is a '{type(made).__name__}', but must be a torch.optim.lr_scheduler.LRScheduler whose "
                f"step takes no loss"
            )
        self._scheduler = made

    def begin(self, epoch: float) -> float:
        """See `StretchRates`; they are set already."""
        return float(self._optimizer.param_groups[0]["lr"])

    def end(self) -> None:
        """The step was made."""
        self._scheduler.step()


def rates_of(
    options: TrainOptions, optimizer: torch.optim.Optimizer, stretch: Stretch, steps: int
) -> StretchRates | OwnRates:
    """The learning rates of a stretch.

    Args:
        options: of the training.
        optimizer: new, at its full rate.
        stretch: of the training.
        steps: that it has.

    Raises:
        OptionError: see `OwnRates`.
    """
    if options.scheduler is None:
        return StretchRates(optimizer, stretch)
    return OwnRates(options, optimizer, stretch.share, steps)


def require_optimizer(options: TrainOptions) -> None:
    """Refuse options whose optimiser or scheduler cannot be made, before anything is trained.

    Raises:
        OptionError: it cannot.
    """
    rates_of(options, fresh_optimizer(options, [nn.Parameter(torch.zeros(2, 2))]), Stretch(1), 1000)


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
