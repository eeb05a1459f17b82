"""Random morphisms of what a layer is: those that preserve the function, and those of which another run says what it becomes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.heads import with_head_sizes, with_heads
from gngraph.ir import Graph
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.to_torch import lower
from gngraph.ops.conv import CONVOLUTIONS
from gngraph.rewrite.attachments import not_gated, not_normed, not_skipped
from gngraph.rewrite.blocks import repeatable_blocks, runs_of
from gngraph.rewrite.factorisation import not_collapsed, not_factorised, rank_of
from gngraph.rewrite.kernels import kernel_of, not_resized, not_restrided, stride_of
from gngraph.rewrite.layers import end_of_unit, layers_of
from gngraph.rewrite.structure import (
    Collapse,
    InsertNorm,
    InsertSkip,
    InsertSqueezeExcite,
    RepeatBlocks,
    ResizeKernel,
    Restride,
    StructureMorphism,
)
from gngraph.scoring.factors import low_rank

Place = Callable[[], StructureMorphism]
"""Makes the morphism of a place."""


def structure_of(graph: Graph, spaces: ChannelSpaces, draw: random.Random) -> StructureMorphism | None:
    """One that preserves the function, of a kind that is drawn before its place; None where there is no place at all."""
    kinds: dict[str, list[Place]] = {}
    for kind, place in places_of(graph, spaces, draw):
        kinds.setdefault(kind, []).append(place)
    return draw.choice(kinds[draw.choice(sorted(kinds))])() if kinds else None


def places_of(graph: Graph, spaces: ChannelSpaces, draw: random.Random) -> Iterator[tuple[str, Place]]:
    """Every place for each kind."""
    for layer in layers_of(graph):
        end, node = end_of_unit(graph, layer), graph.nodes[layer]
        wider = tuple(size + 2 for size in kernel_of(graph, node))
        if not_resized(graph, layer, wider) is None:
            yield "kernel", partial(ResizeKernel, layer, wider)
        if not_gated(graph, spaces, end) is None:
            yield "squeeze-excite", partial(InsertSqueezeExcite, end, 2)
        if not_skipped(graph, spaces, end, node.inputs[0]) is None:
            yield "skip", partial(InsertSkip, end, node.inputs[0])
        if not_normed(graph, spaces, layer) is None:
            yield "norm", partial(_normed, graph, layer, draw)
        if not_factorised(graph, layer, "low-rank") is None:
            yield "factorise", partial(low_rank, graph, layer, rank_of(graph, layer), None)
        if not_collapsed(graph, layer) is None:
            yield "collapse", partial(Collapse, layer)


def _normed(graph: Graph, layer: str, draw: random.Random) -> InsertNorm:
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    mean, variance = torch.randn(2, int(graph.nodes[layer].shape[1]), generator=generator, dtype=torch.float64)
    return InsertNorm(layer, mean, variance.square() + 0.1)


def of_other_heads(graph: Graph) -> tuple[str, Graph] | None:
    """The pass that hands channels of attention over, to sizes of heads or back to heads, and what it makes; None without such."""
    for name, hand_over in (("head-sizes", with_head_sizes), ("whole-heads", with_heads)):
        other = hand_over(graph)
        if dict(other.nodes) != dict(graph.nodes):
            return name, other
    return None


Change = InsertSkip | Restride | RepeatBlocks
"""Morphisms that change the function, of which another run says what they make of it."""


def change_of(graph: Graph, spaces: ChannelSpaces, draw: random.Random) -> Change | None:
    """One that changes the function: a skip of scale 1, another stride, blocks repeated; None where there is no place."""
    found: list[Change] = [
        RepeatBlocks(run[-1].value, draw.choice(run).source, draw.randint(1, 2))
        for run in runs_of(repeatable_blocks(graph, spaces))
    ]
    for layer in layers_of(graph):
        end, node = end_of_unit(graph, layer), graph.nodes[layer]
        if not_skipped(graph, spaces, end, node.inputs[0]) is None:
            found.append(InsertSkip(end, node.inputs[0], 1.0))
        kernel = kernel_of(graph, node)
        if kernel and "stride" in node.attrs and "transpose" not in node.op:
            stride = (1 if max(stride_of(graph, node)) > 1 else 2,) * len(kernel)
            if not_restrided(graph, layer, stride) is None:
                found.append(Restride(layer, stride))
    return draw.choice(found) if found else None


class Changed(Interpreter):
    """Runs a graph as a morphism that changes the function says that it computes afterwards; the graph itself stays.

    Args:
        graph: before, in float64.
        morphism: from `change_of`.
    """

    def __init__(self, graph: Graph, morphism: Change) -> None:
        self.lowered, self.morphism = lower(graph), morphism
        super().__init__(self.lowered.module, garbage_collect_values=False)
        if isinstance(morphism, Restride):
            for step in self.lowered.steps[morphism.at]:
                if step.op == "call_module":
                    self.lowered.module.get_submodule(str(step.target)).stride = morphism.stride  # type: ignore[assignment]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        of_layer = self.node in self.lowered.steps[self.morphism.at]
        if isinstance(self.morphism, Restride) and of_layer and target in CONVOLUTIONS.values():
            kwargs = {**kwargs, "stride": self.morphism.stride}
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        result = super().run_node(n)
        if isinstance(self.morphism, InsertSkip) and n is self.lowered.values[self.morphism.at]:
            result = result + self.env[self.lowered.values[self.morphism.source]]
        if isinstance(self.morphism, RepeatBlocks) and n is self.lowered.values[self.morphism.at]:
            for _ in range(self.morphism.times):
                result = self._once_more(n, self.lowered.values[self.morphism.source], result)
        return result

    def _once_more(self, end: fx.Node, start: fx.Node, value: Any) -> Any:
        """What `end` is where `start` is another value."""
        kept, moved = self.env, {start}
        self.env = {**kept, start: value}
        for node in self.lowered.module.graph.nodes:
            if not moved.isdisjoint(node.all_input_nodes):
                self.env[node] = super().run_node(node)
                moved.add(node)
            if node is end:
                break
        again, self.env = self.env[end], kept
        return again

    def outputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that it gives."""
        with torch.no_grad():
            result = self.run(*(x.double() if x.is_floating_point() else x for x in inputs))
        return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
