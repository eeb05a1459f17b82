"""A module whose forward is any function of it and its input, and what random ones are made of."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Body = Callable[[Any, Tensor], Any]


@dataclass
class Chosen:
    """What a maker may draw from.

    Attributes:
        rng: decides what the block is like.
        width: channels of what comes in and goes out.
        own: generators of random numbers that the blocks made so far hold in closures.
    """

    rng: random.Random
    width: int
    own: list[Any] = field(default_factory=list)

    def one_of(self, *choices: Any) -> Any:
        """One of some things."""
        return self.rng.choice(choices)

    def sometimes(self) -> bool:
        """True in half of the cases."""
        return self.rng.random() < 0.5

    def conv(self, **options: Any) -> nn.Conv2d:
        """A convolution that keeps the shape."""
        return nn.Conv2d(self.width, self.width, 3, padding=1, **options)

    def draw(self) -> Callable[[], float]:
        """A function that draws a number from 0 to 1, by one of the ways that there are."""
        twist, numbers = random.Random(self.rng.random()), np.random.default_rng(self.rng.randrange(99))
        torchs, kept = torch.Generator().manual_seed(self.rng.randrange(99)), np.random.RandomState(3)
        kind, draw = self.one_of(
            (None, random.random),
            (None, lambda: random.uniform(0, 1)),
            (None, lambda: random.gauss(0.5, 0.2)),
            (None, lambda: float(np.random.rand())),
            (None, lambda: float(np.random.uniform())),
            (None, lambda: float(torch.rand(()))),
            (None, lambda: torch.rand(1).item()),
            (None, lambda: float(torch.empty(1).uniform_())),
            (twist, twist.random),
            (twist, lambda: twist.random()),
            (numbers, lambda: float(numbers.random())),
            (kept, lambda: float(kept.rand())),
            (torchs, lambda: float(torch.empty(1).uniform_(generator=torchs))),
            (torchs, lambda: torch.rand(1, generator=torchs).item()),
        )
        if kind is not None:
            self.own.append(kind)
        made: Callable[[], float] = draw
        return made


Maker = Callable[[Chosen], nn.Module]


class Block(nn.Module):
    """A module with a function as its forward.

    Args:
        body: takes the module and its input.
        held: modules and parameters; tensors, which become buffers; and whatever else is to be an attribute.
    """

    def __init__(self, body: Body, **held: Any) -> None:
        super().__init__()
        self.body = body
        for name, value in held.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)
