"""Applying morphisms of every kind at once: channels by surgery on their spaces, layers by edits of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.rewrite.insertion import insert_layer
from gngraph.rewrite.layer_removal import remove_layer
from gngraph.rewrite.morphism import InsertLayer, LayerMorphism, Morphism, RemoveLayer, edits_of
from gngraph.rewrite.surgery import Gather, Rewritten, rewrite


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
    for morphism in morphisms:
        if isinstance(morphism, RemoveLayer):
            shallower = remove_layer(graph, spaces, morphism)
            graph, spaces = shallower.graph, ChannelSpaces.of(shallower.graph)
            gathers |= _then(gathers, shallower.gathers)
    edits = edits_of(graph, spaces, (m for m in morphisms if not isinstance(m, LayerMorphism)))
    rewritten = rewrite(graph, spaces, edits, generator)
    gathers |= _then(gathers, rewritten.gathers)
    deeper = rewritten.graph
    for morphism in morphisms:
        if isinstance(morphism, InsertLayer):
            deeper = insert_layer(deeper, ChannelSpaces.of(deeper), morphism, generator)
    return Rewritten(deeper, edits, gathers)


def _then(
    first: Mapping[str, tuple[Gather, ...]], then: Mapping[str, tuple[Gather, ...]]
) -> dict[str, tuple[Gather, ...]]:
    return {name: (*first.get(name, ()), *gathers) for name, gathers in then.items()}
