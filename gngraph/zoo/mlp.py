"""Multilayer perceptron for inputs of any shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from gngraph.zoo.spec import Builder, SeedSpec

HIDDEN = (256, 256)


class MLP(nn.Module):
    """Linear and ReLU layers on the flattened input: two hidden layers of 256 times the width multiplier.

    Input `[N, *input_shape]`, output `[N, classes]`.
    """

    def __init__(self, spec: SeedSpec) -> None:
        super().__init__()
        features = math.prod(spec.input_shape)
        layers: list[nn.Module] = []
        for base in HIDDEN:
            layers += [nn.Linear(features, spec.scaled(base)), nn.ReLU()]
            features = spec.scaled(base)
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(features, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `[N, classes]`."""
        return cast(Tensor, self.head(self.hidden(torch.flatten(x, 1))))


MLPS: Mapping[str, Builder] = {"mlp": MLP}
