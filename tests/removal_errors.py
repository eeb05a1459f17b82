"""How far the removal of a layer is from what it promises, in float64.

Every channel of the layer is rebuilt from one channel before it. Such a combination can be put in the layer's place as a value,
for it passes through everything that works channel by channel; so the network before the removal says what the one after it
must compute, and no weight is folded for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.layer_removal import RemovableLayer, remove_layer
from gngraph.rewrite.morphism import RemoveLayer
from tests.local_errors import relative


def removed(graph: Graph, spaces: ChannelSpaces, layer: RemovableLayer, seed: int = 0) -> tuple[Graph, torch.Tensor]:
    """The graph without a layer of which every channel is rebuilt from one drawn at random, and which ones, [channels]."""
    size, width = spaces[layer.space].size, spaces[layer.source_space].size
    if not layer.reads:
        return remove_layer(graph, spaces, RemoveLayer(layer.value)).graph, torch.arange(size)
    drawn = torch.randint(width, (size,), generator=torch.Generator().manual_seed(seed))
    combination = torch.nn.functional.one_hot(drawn, width).double()
    weights = {slot.param: combination for slot in layer.reads}
    return remove_layer(graph, spaces, RemoveLayer(layer.value, weights)).graph, drawn


def removal_error(
    graph: Graph, spaces: ChannelSpaces, layer: RemovableLayer, inputs: Sequence[torch.Tensor], seed: int = 0
) -> tuple[Graph, float]:
    """The graph without a layer, and the relative error of its outputs."""
    shallower, drawn = removed(graph, spaces, layer, seed)
    return shallower, relative(outputs64(shallower, inputs), _replaced(graph, spaces, layer, drawn, inputs))


def _replaced(
    graph: Graph, spaces: ChannelSpaces, layer: RemovableLayer, drawn: torch.Tensor, inputs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """What the network computes where channels of the value before the layer stand in the place of those behind it."""
    lowered = lower(graph.to(torch.float64, "cpu"))
    axis = next(axis for (value, axis) in spaces.layouts if value == layer.value and axis > 0)
    inner = spaces.layouts[layer.value, axis][0][2]
    entries = (drawn.unsqueeze(1) * inner + torch.arange(inner)).flatten() if layer.reads else None
    before, behind = lowered.values[layer.source], lowered.values[layer.value]

    class Replacing(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n is not behind:
                return result
            found = self.env[before]
            return found if entries is None else found.index_select(axis, entries)

    doubled = [x.double() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        return list(tree_leaves(Replacing(lowered.module, garbage_collect_values=False).run(*doubled)))
