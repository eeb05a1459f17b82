"""An exponential moving average of the weights, which is what a stretch of training gives where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

LAG = 10
"""After t steps the decay is at most (1 + t) / (LAG + t), so that a short stretch forgets where it began, as TensorFlow's
`ExponentialMovingAverage` does with `num_updates`."""


class Average:
    """The average of parameters over the steps of a stretch of training.

    A stretch begins with what the one before gave, its average, behind the rewrite between them: the average goes through the
    channel maps as the network does, for it is the network.

    Args:
        parameters: that are trained, by name.
        decay: of a step; None: the average is the parameters as they are.
        begun: the average of a stretch that goes on; empty: the parameters begin it.
        steps: done of the stretch.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decay: float | None, begun: Mapping[str, Tensor], steps: int
    ) -> None:
        self._parameters, self._decay, self._steps = parameters, decay, steps
        self.values: dict[str, Tensor] = {}
        if decay is not None:
            self.values = {n: begun.get(n, p.detach()).to(p.device, copy=True) for n, p in parameters.items()}

    def follow(self) -> None:
        """A step was made."""
        if self._decay is None:
            return
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (LAG + self._steps))
        current = [parameter.detach() for parameter in self._parameters.values()]
        get_ema_multi_avg_fn(decay)([*self.values.values()], current, torch.tensor(self._steps))  # type: ignore[no-untyped-call]
