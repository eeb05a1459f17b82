"""Shapes that are computed without torch's rules are those that torch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gngraph.importing.shapes import Shapes

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 6)),
    "strided": (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(0, 1)), (2, 4, 9, 8)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2), (2, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 5, 5)),
    "line": (nn.Conv1d(4, 6, 3, stride=2), (2, 4, 9)),
    "volume": (nn.Conv3d(2, 3, 2), (2, 2, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    "norm": (nn.BatchNorm2d(4), (2, 4, 3, 3)),
    "norm in eval mode": (nn.BatchNorm2d(4).eval(), (2, 4, 3, 3)),
    "in place": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6(inplace=True), nn.Hardswish(inplace=True)), (2, 4, 3, 3)),
}


def shapes(layer: nn.Module, x: torch.Tensor) -> list[Any]:
    """Shapes and strides of the output and of all gradients."""
    x.requires_grad_()
    out = layer(x)
    gradients = torch.autograd.grad(out, [x, *layer.parameters()], torch.ones_like(out))
    return [(value.shape, value.stride(), value.dtype) for value in (out, *gradients)]


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_those_that_torch_gives(name: str) -> None:
    layer, shape = LAYERS[name]
    expected = shapes(layer, torch.randn(shape))
    with Shapes({}):
        assert shapes(layer.to("meta"), torch.empty(shape, device="meta")) == expected


def test_a_kernel_larger_than_its_input_is_refused() -> None:
    with Shapes({}), pytest.raises(RuntimeError, match="larger"):
        nn.Conv2d(1, 1, 5, device="meta")(torch.empty(1, 1, 3, 3, device="meta"))


def test_channels_must_fit() -> None:
    with Shapes({}), pytest.raises(RuntimeError):
        nn.Conv2d(2, 1, 1, device="meta")(torch.empty(1, 3, 3, 3, device="meta"))
