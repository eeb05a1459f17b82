"""A small network whose forward is any function of it and its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Body(nn.Module):
    """Two convolutions and a head, called by a function of (self, x), with further modules and parameters."""

    def __init__(self, call: Callable[[Any, Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def head(s: Any, x: Tensor) -> Tensor:
    out: Tensor = s.h(torch.relu(s.b(x)).mean((2, 3)))
    return out
