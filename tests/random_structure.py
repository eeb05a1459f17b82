"""A random morphism of what a layer is, of those that preserve the function."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.rewrite.attachments import not_gated, not_normed, not_skipped
from gngraph.rewrite.factorisation import not_collapsed, not_factorised, rank_of
from gngraph.rewrite.kernels import kernel_of, not_resized
from gngraph.rewrite.layers import end_of_unit, layers_of
from gngraph.rewrite.structure import (
    Collapse,
    InsertNorm,
    InsertSkip,
    InsertSqueezeExcite,
    ResizeKernel,
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
