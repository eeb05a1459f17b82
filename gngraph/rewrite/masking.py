"""Masking: the effect of removals without removing anything, the reference that smaller graphs are compared with."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.ir import Graph
from gngraph.rewrite.morphism import MergeChannel, Morphism, PruneChannel, edits_of


def masked(graph: Graph, spaces: ChannelSpaces, morphisms: Iterable[Morphism]) -> Graph:
    """The graph of unchanged shape that computes what `graph` does after `morphisms`.

    Every weight that reads a pruned or merged channel is zero, and what takes the channel's place is folded as the rewrite
    folds it. Splits and new channels are left out, for they preserve the function. O(size of the touched parameters); no
    channel is gathered or renumbered, which makes it a check on the surgery.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        morphisms: numbered as before the rewrite.

    Raises:
        PassError: a channel does not exist or is named twice, or is rebuilt from one that is removed.
        FrozenSpaceError: a space is frozen.
    """
    removals = [m for m in morphisms if isinstance(m, PruneChannel | MergeChannel)]
    data: dict[str, torch.Tensor] = {}
    for edit in edits_of(graph, spaces, removals).values():
        for param, shift in edit.shift.items():
            data[param] = data[param] + shift if param in data else shift
    data = {param: graph.params[param].data + shift for param, shift in data.items()}
    for removal in removals:
        for slot in spaces[removal.space].slots:
            if slot.role is Role.CONSUME:
                weight = data.get(slot.param, graph.params[slot.param].data).clone()
                weight.narrow(slot.axis, slot.offset + removal.channel * slot.inner, slot.inner).zero_()
                data[slot.param] = weight
    return graph.with_params(data)
