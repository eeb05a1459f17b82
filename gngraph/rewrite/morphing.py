"""Applying morphisms of every kind at once: channels by surgery on their spaces, layers by edits of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.rewrite.insertion import insert_layer
from gngraph.rewrite.layer_removal import remove_layer
from gngraph.rewrite.morphism import InsertLayer, LayerMorphism, Morphism, RemoveLayer, edits_of
from gngraph.rewrite.surgery import Gather, Rewritten, SpaceEdit, rewrite


def morph(
    graph: Graph, spaces: ChannelSpaces, morphisms: Sequence[Morphism], generator: torch.Generator | None = None
) -> Rewritten:
    """`graph` after a set of morphisms, all numbered as before it: first layers go, then channels change, then layers come.

    A layer is inserted at the width that its value then has.

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
    removals = [m for m in morphisms if isinstance(m, RemoveLayer)]
    for at, removal in enumerate(removals):
        shallower = remove_layer(graph, ChannelSpaces.of(graph) if at else spaces, removal)
        graph, gathers = shallower.graph, gathers | _then(gathers, shallower.gathers)
    if channels := [m for m in morphisms if not isinstance(m, LayerMorphism)]:
        spaces = ChannelSpaces.of(graph) if removals else spaces
        edits = edits_of(graph, spaces, channels)
        rewritten = rewrite(graph, spaces, edits, generator)
        graph, gathers = rewritten.graph, gathers | _then(gathers, rewritten.gathers)
    for morphism in morphisms:
        if isinstance(morphism, InsertLayer):
            graph = insert_layer(graph, ChannelSpaces.of(graph), morphism, generator)
    return Rewritten(graph, edits, gathers)


def _then(
    first: Mapping[str, tuple[Gather, ...]], then: Mapping[str, tuple[Gather, ...]]
) -> dict[str, tuple[Gather, ...]]:
    return {name: (*first.get(name, ()), *gathers) for name, gathers in then.items()}
