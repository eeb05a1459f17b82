"""Masking: the effect of removals without removing anything, the reference that smaller graphs are compared with."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.ir import Graph
from gngraph.ops import draft_of
from gngraph.rewrite.channel_map import NEW
from gngraph.rewrite.computed_weights import with_plain_weights
from gngraph.rewrite.counting import count_only, kept_entries
from gngraph.rewrite.morphism import MergeChannel, Morphism, PruneChannel, edits_of


def masked(graph: Graph, spaces: ChannelSpaces, morphisms: Iterable[Morphism]) -> Graph:
    """The graph of unchanged shape that computes what `graph` does after `morphisms`.

    Every weight that reads a pruned or merged channel is zero, what takes the channel's place is folded as the rewrite folds it,
    and statistics over channels count those that stay. Splits and new channels are left out, for they preserve the function.
    O(size of the touched parameters); no channel is gathered or renumbered, which makes it a check on the surgery.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        morphisms: numbered as before the rewrite.

    Raises:
        PassError: a channel does not exist or is named twice, or is rebuilt from one that is removed.
        FrozenSpaceError: a space is frozen.
    """
    graph = with_plain_weights(graph)
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
    counted = {name: list(range(spaces[name].size)) for name in {removal.space for removal in removals}}
    for removal in removals:
        counted[removal.space][removal.channel] = NEW
    draft = draft_of(graph.with_params(data))
    for name in spaces.counted:
        if kept := kept_entries(graph, spaces, name, counted):
            count_only(draft, graph.nodes[name], kept)
    return draft.commit()
