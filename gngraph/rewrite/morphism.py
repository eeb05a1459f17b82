"""Morphisms: frozen descriptions of single growth steps, and their translation into space edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.rewrite.channel_map import ChannelMap
from gngraph.rewrite.computed_weights import with_plain_weights
from gngraph.rewrite.folding import mean_shift, merged_weights
from gngraph.rewrite.structure import StructureMorphism
from gngraph.rewrite.surgery import SpaceEdit


@dataclass(frozen=True, eq=False)
class SplitChannel:
    """Split channel `channel` in two copies that share its out-weights in halves.

    Attributes:
        param: weight of the layer whose rows of the two copies are moved apart; None for equal twins.
        d1, d2: what is added to the two copies' rows: the shape of `param`, with axis 0 reduced to the channel's entries.
    """

    space: str
    channel: int
    param: str | None = None
    d1: torch.Tensor | None = None
    d2: torch.Tensor | None = None
    kind: str = "split"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "space": self.space, "channel": self.channel, "param": self.param}


@dataclass(frozen=True, eq=False)
class NewChannel:
    """Add a channel; without out-weights the function is preserved.

    Entries have the shape of the parameter, with the space's axis reduced to the channel's entries, slot by slot.

    Attributes:
        rows: parameter that writes or accompanies the space -> entries of the new channel; parameters without start at
            random (BatchNorm at 1 and 0).
        out: parameter that reads the space -> weights that read the new channel; parameters without start at 0.
    """

    space: str
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    out: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: str = "new"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "space": self.space}


@dataclass(frozen=True, eq=False)
class PruneChannel:
    """Remove channel `channel`; every reader keeps what `means` says that it read on average.

    Attributes:
        means: reading node -> mean of the channel's entries there, slot by slot, folded into the reader's bias, or into the
            running mean of the BatchNorm behind it. A reader without either, or without a mean, reads 0.
    """

    space: str
    channel: int
    means: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: str = "prune"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "space": self.space, "channel": self.channel}


@dataclass(frozen=True, eq=False)
class MergeChannel:
    """Remove channel `channel`; every reader finds sum_j b_j a_j + m in its place, rebuilt from the other channels.

    Attributes:
        weights: parameter that reads the space -> b, [slots, channels]: one row for each of its slots, since it may read the
            space more than once, behind different non-linearities. The entry of `channel` itself has no meaning. A
            parameter without reads nothing in the channel's place.
        means: reading node -> m, slot by slot, kept where a prune keeps its means (see `PruneChannel`).
    """

    space: str
    channel: int
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    means: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: str = "merge"

    @property
    def sources(self) -> tuple[int, ...]:
        """The channels that some reader rebuilds the channel from."""
        used = {c for b in self.weights.values() for c in b.any(0).nonzero().flatten().tolist()}
        return tuple(sorted(used - {self.channel}))

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "space": self.space, "channel": self.channel, "sources": list(self.sources)}


@dataclass(frozen=True, eq=False)
class InsertLayer:
    """Insert a layer, or a residual block, behind the value `at` (see `gngraph.rewrite.insertion`).

    Attributes:
        at: name of the node whose value everything passes (a cut point).
        block: "layer" or "residual".
        weights: what was learned, by role: "inner.weight" starts there, instead of at random; to "weight", the identity,
            and to "outer.weight", zero, it is added. Without the last two the function is preserved.
    """

    at: str
    block: str = "layer"
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: str = "insert"

    @property
    def space(self) -> str:
        """What it acts on, where other morphisms name their channel space: the value."""
        return self.at

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at, "block": self.block}


@dataclass(frozen=True, eq=False)
class RemoveLayer:
    """Remove the layer, or residual block, that ends at the value `at` (see `gngraph.rewrite.layer_removal`).

    Attributes:
        at: name of the value, which what stands before the layer takes the place of.
        weights: parameter that reads the value's channels -> the combination of the channels before the layer that stands in for
            them, [channels, channels before]. Not asked for around a residual block, where they are the same.
        means: reading node -> what is added to each channel, [channels, inner], kept where a prune keeps its means (see
            `PruneChannel`).
    """

    at: str
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    means: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: str = "remove"

    @property
    def space(self) -> str:
        """What it acts on, where other morphisms name their channel space: the value."""
        return self.at

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at}


ChannelMorphism = SplitChannel | NewChannel | PruneChannel | MergeChannel
"""Morphisms of one channel space."""

LayerMorphism = InsertLayer | RemoveLayer | StructureMorphism
"""Morphisms of the graph itself."""

Morphism = ChannelMorphism | LayerMorphism


def edits_of(graph: Graph, spaces: ChannelSpaces, morphisms: Iterable[Morphism]) -> dict[str, SpaceEdit]:
    """One edit a space for a set of morphisms, all numbered as in `graph`.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        morphisms: of channels; those of layers are refused.

    Raises:
        PassError: two morphisms name the same channel, a channel does not exist, a channel is rebuilt from one that is
            removed as well, or the weights of a merge do not fit its readers.
        FrozenSpaceError: a space is frozen.
    """
    groups: dict[str, list[ChannelMorphism]] = {}
    for morphism in morphisms:
        if isinstance(morphism, LayerMorphism):
            raise PassError(f"what happens to the layer at '{morphism.at}' is no edit of a channel space; use morph")
        groups.setdefault(morphism.space, []).append(morphism)
    graph = with_plain_weights(graph)
    data = {name: param.data for name, param in graph.params.items()}
    return {name: _edit(graph, data, spaces, name, group) for name, group in groups.items()}


def _edit(
    graph: Graph, data: dict[str, torch.Tensor], spaces: ChannelSpaces, name: str, group: list[ChannelMorphism]
) -> SpaceEdit:
    """The edit of one space. `data` are the weights with all merges so far, among them those of other spaces."""
    space = spaces.require_free(name)
    splits = [m for m in group if isinstance(m, SplitChannel)]
    news = [m for m in group if isinstance(m, NewChannel)]
    removals = [m for m in group if isinstance(m, PruneChannel | MergeChannel)]
    named = [m.channel for m in splits] + [m.channel for m in removals]
    for channel in named:
        if not 0 <= channel < space.size:
            raise PassError(f"channel space '{name}' has {space.size} channels and no channel {channel}")
        if named.count(channel) > 1:
            raise PassError(
                f"channel {channel} of space '{name}' is named by two morphisms; apply them one after another"
            )
    if len(removals) >= space.size + len(news):
        raise PassError(f"pruning all {space.size} channels of space '{name}' would cut the network; keep at least one")
    _check_tied(space, group)
    whole = ChannelMap.identity(space.size).split([m.channel for m in splits]).grow(len(news))
    rows: dict[str, dict[int, torch.Tensor]] = {}
    for position, m in enumerate(splits):
        if m.param is not None and m.d1 is not None and m.d2 is not None:
            for channel, d in ((m.channel, m.d1), (space.size + position, m.d2)):
                rows.setdefault(m.param, {})[channel] = d
    out: dict[str, dict[int, torch.Tensor]] = {}
    for position, new in enumerate(news):
        for table, entries in ((rows, new.rows), (out, new.out)):
            for param, row in entries.items():
                table.setdefault(param, {})[space.size + len(splits) + position] = row
    gone = {m.channel for m in removals}
    final = whole.prune(gone)
    kept = [i for i in range(len(whole.source)) if i not in gone]
    renumbered = {old: new for new, old in enumerate(kept)}
    rows, out = (
        {param: {renumbered[c]: row for c, row in items.items() if c in renumbered} for param, items in table.items()}
        for table in (rows, out)
    )
    shift: dict[str, torch.Tensor] = {}
    for removal in removals:
        deltas = list(mean_shift(graph, space, removal.channel, removal.means).items())
        if isinstance(removal, MergeChannel):
            for param, weight in merged_weights(data, space, removal.channel, removal.weights).items():
                deltas.append((param, weight - data[param]))
                data[param] = weight
            lost = gone.intersection(removal.sources)
            if lost:
                raise PassError(
                    f"channel {removal.channel} of space '{name}' is rebuilt from channel {min(lost)}, which is removed "
                    f"as well; apply them one after another"
                )
        for param, delta in deltas:
            shift[param] = shift[param] + delta if param in shift else delta
    return SpaceEdit(final, rows, out, shift)


def _check_tied(space: ChannelSpace, group: Iterable[ChannelMorphism]) -> None:
    """Refuse what would give a parameter that both writes and reads a space other entries for the two.

    Raises:
        PassError: a channel is split, or what a morphism learned is for such a parameter.
    """
    tied = set(space.tied)
    for m in group if tied else ():
        learned = {p for p, b in m.weights.items() if bool(b.any())} if isinstance(m, MergeChannel) else set()
        learned |= {*m.rows, *m.out} if isinstance(m, NewChannel) else set()
        if isinstance(m, SplitChannel) or not tied.isdisjoint(learned):
            held = ", ".join(f"'{param}'" for param in sorted(tied))
            raise PassError(
                f"a {m.kind} of space '{space.name}' cannot be exact, for {held} both writes and reads it; prune channels of "
                f"it, or add new ones without weights of their own"
            )
