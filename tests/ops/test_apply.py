"""A layer applied by its op alone computes what its module does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.importing.from_torch import from_torch
from gngraph.ops import lookup


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", ["same", "valid", (2, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_applied_by_its_op_is_the_module(mode: str, padding: str | tuple[int, int], groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, (4, 3), padding=padding, dilation=(1, 2), groups=groups, bias=False, padding_mode=mode)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 7, 8)
    graph = from_torch(nn.Sequential(layer), x)
    (node,) = (node for node in graph.nodes.values() if "weight" in node.params)
    apply = lookup(node.op).apply
    assert apply is not None
    assert torch.equal(apply(node, x, layer.weight), layer(x))
