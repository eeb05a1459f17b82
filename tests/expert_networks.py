"""A mixture of experts as transformers runs it: rows in order of their experts, and a weight for each expert of its own."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPED: Any = torch._grouped_mm
"""Torch's product of rows with the weights of experts."""


class Experts(nn.Module):
    """A block on tokens of 5 numbers, with a stream of 8 and four experts of 12, two for each token.

    Args:
        transposed: whether the weights are [expert, out, in].
    """

    def __init__(self, transposed: bool = True) -> None:
        super().__init__()
        self.transposed, shapes = transposed, ((4, 24, 8), (4, 8, 12))
        self.stem, self.norm, self.gate, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.up, self.down = (
            nn.Parameter(torch.randn(e, out, read) * 0.3 if transposed else torch.randn(e, read, out) * 0.3)
            for e, out, read in shapes
        )

    def product(self, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        if self.transposed:
            weight = weight.transpose(-2, -1)
            x = x.to(weight.dtype)
        return cast(Tensor, GROUPED(x, weight, offs=ends))

    def experts(self, x: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
        tokens, count = chosen.shape
        experts, order = torch.sort(chosen.reshape(-1))
        ends = torch.cumsum(torch.histc(experts.float(), bins=4, min=0, max=3), dim=0, dtype=torch.int32)
        gate, value = self.product(x[order // count], self.up, ends).chunk(2, dim=-1)
        y = self.product(F.silu(gate) * value, self.down, ends) * scores.reshape(-1)[order].unsqueeze(-1)
        back = torch.argsort(order)
        return y[back].view(tokens, count, -1).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        flat = y.view(-1, y.shape[-1])
        scores, chosen = torch.topk(self.gate(flat).softmax(-1), 2, dim=-1)
        y = self.experts(flat, chosen, scores).view(x.shape)
        return cast(Tensor, self.head(x + y))
