"""Applying morphisms of every kind at once: channels by surgery on their spaces, layers by edits of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.rewrite.attachments import insert_norm, insert_skip, insert_squeeze_excite, remove_skip
from gngraph.rewrite.factorisation import collapse, factorise
from gngraph.rewrite.insertion import insert_layer
from gngraph.rewrite.joining import join
from gngraph.rewrite.kernels import resize_kernel, restride
from gngraph.rewrite.layer_removal import remove_layer
from gngraph.rewrite.morphism import InsertLayer, LayerMorphism, Morphism, RemoveLayer, edits_of
from gngraph.rewrite.pooling import insert_pool, move_pool, remove_pool, stride_to_pool
from gngraph.rewrite.repetition import repeat_blocks
from gngraph.rewrite.structure import (
    Collapse,
    Factorise,
    InsertNorm,
    InsertPool,
    InsertSkip,
    InsertSqueezeExcite,
    JoinPair,
    MovePool,
    RemovePool,
    RemoveSkip,
    RepeatBlocks,
    ResizeKernel,
    Restride,
    StrideToPool,
    StructureMorphism,
)
from gngraph.rewrite.surgery import Gather, Rewritten, SpaceEdit, rewrite


def morph(
    graph: Graph, spaces: ChannelSpaces, morphisms: Sequence[Morphism], generator: torch.Generator | None = None
) -> Rewritten:
    """`graph` after a set of morphisms, all numbered as before it: first layers go, then channels change, then layers come.

    A layer is inserted at the width that its value then has. Last change what layers are, one after another.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        morphisms: in any order.
        generator: of the CPU, for what starts at random; default: seed 0.

    Raises:
        PassError: two morphisms name the same channel, a channel or a place for a layer does not exist, or a layer was
            learned at a width that another morphism changes.
        FrozenSpaceError: a space is frozen.
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    gathers: dict[str, tuple[Gather, ...]] = {}
    edits: Mapping[str, SpaceEdit] = {}
    copies: dict[str, str] = {}
    rounded = False
    removals = [m for m in morphisms if isinstance(m, RemoveLayer)]
    for at, removal in enumerate(removals):
        shallower = remove_layer(graph, ChannelSpaces.of(graph) if at else spaces, removal)
        graph, gathers = shallower.graph, gathers | _then(gathers, shallower.gathers)
    if channels := [m for m in morphisms if not isinstance(m, LayerMorphism)]:
        spaces = ChannelSpaces.of(graph) if removals else spaces
        edits = edits_of(graph, spaces, channels)
        rewritten = rewrite(graph, spaces, edits, generator)
        graph, gathers, rounded = rewritten.graph, gathers | _then(gathers, rewritten.gathers), rewritten.rounded
    for morphism in morphisms:
        if isinstance(morphism, InsertLayer):
            graph = insert_layer(graph, ChannelSpaces.of(graph), morphism, generator)
    for morphism in morphisms:
        if isinstance(morphism, StructureMorphism):
            changed = restructure(graph, morphism)
            graph, gathers = changed.graph, gathers | _then(gathers, changed.gathers)
            copies |= {new: copies.get(old, old) for new, old in changed.copies.items()}
    return Rewritten(graph, edits, gathers, copies, rounded)


def restructure(graph: Graph, morphism: StructureMorphism) -> Rewritten:
    """`graph` after one morphism of what a layer is.

    Args:
        graph: before the rewrite.
        morphism: names a node of `graph`.

    Raises:
        PassError: there is no such node, or it cannot change so; the message says why.
    """
    if morphism.at not in graph.nodes:
        raise PassError(f"'{graph.name}' has no node '{morphism.at}' to change{choices(morphism.at, graph.nodes)}")
    if isinstance(morphism, ResizeKernel):
        return resize_kernel(graph, morphism)
    if isinstance(morphism, RepeatBlocks):
        return repeat_blocks(graph, morphism)
    kind = type(morphism)
    if kind in _AT_SPACES:
        return Rewritten(_AT_SPACES[kind](graph, ChannelSpaces.of(graph), morphism), {}, {})
    return Rewritten(_AT_NODES[kind](graph, morphism), {}, {})


_AT_NODES: Mapping[type, Callable[[Graph, Any], Graph]] = {
    Collapse: collapse,
    Factorise: factorise,
    JoinPair: join,
    MovePool: move_pool,
    RemovePool: remove_pool,
    RemoveSkip: remove_skip,
    Restride: restride,
    StrideToPool: stride_to_pool,
}
"""What applies morphisms that ask for no channel spaces."""

_AT_SPACES: Mapping[type, Callable[[Graph, ChannelSpaces, Any], Graph]] = {
    InsertNorm: insert_norm,
    InsertPool: insert_pool,
    InsertSkip: insert_skip,
    InsertSqueezeExcite: insert_squeeze_excite,
}
"""What applies morphisms that do."""


def _then(
    first: Mapping[str, tuple[Gather, ...]], then: Mapping[str, tuple[Gather, ...]]
) -> dict[str, tuple[Gather, ...]]:
    return {name: (*first.get(name, ()), *gathers) for name, gathers in then.items()}
