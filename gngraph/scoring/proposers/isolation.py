"""Isolation: a space cut down to new channels alone, so that what these carry to its readers can be computed and fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role
from gngraph.ir import Graph, Node, OpaqueType
from gngraph.ops import BatchStatistics, lookup
from gngraph.ranks import ALONE, Ranks
from gngraph.rewrite.morphism import NewChannel, PruneChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.scoring.collect import Replay
from gngraph.scoring.sites import ReadSite, read_sites

Settled = Callable[[Node, BatchStatistics, torch.Tensor, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
"""Maps a norm, its roles, and the mean, variance and mean square of each channel that it reads, to parameters by role."""


def entries_of(graph: Graph, space: ChannelSpace, channel: int) -> dict[str, torch.Tensor]:
    """What a channel owns in the parameters that write or accompany its space, as `NewChannel.rows` wants it.

    Args:
        graph: the network.
        space: one of its spaces.
        channel: its number in the space.
    """
    found: dict[str, list[torch.Tensor]] = {}
    axes: dict[str, int] = {}
    for slot in space.slots:
        if slot.role is not Role.CONSUME:
            data, axes[slot.param] = graph.params[slot.param].data, slot.axis
            found.setdefault(slot.param, []).append(
                data.narrow(slot.axis, slot.offset + channel * slot.inner, slot.inner)
            )
    return {param: torch.cat(parts, axes[param]) for param, parts in found.items()}


def obstacle(graph: Graph, spaces: ChannelSpaces, name: str) -> str | None:
    """Why new channels of a space cannot be followed to its readers; None when they can.

    Args:
        graph: the whole one.
        spaces: of `graph`.
        name: of the space.
    """
    space = spaces[name]
    for counter in spaces.counters.get(name, ()):
        node = graph.nodes[counter]
        return f"'{node.module or node.name}' ({node.op}) counts its channels"
    for node in _carriers(graph, space, read_sites(graph, spaces)):
        writes = node.name in space.nodes(Role.PRODUCE)
        if not writes and not isinstance(node.type, OpaqueType) and not lookup(node.op).channelwise:
            return f"'{node.module or node.name}' ({node.op}) mixes its channels, or shares its weight"
    for slot in space.slots:
        layer = graph.nodes[slot.node]
        if slot.across:
            return f"'{layer.module or layer.name}' ({layer.op}) sums over them"
        if slot.role is Role.CONSUME and (not lookup(layer.op).is_dense(layer) or len(graph.readers(slot.param)) > 1):
            return f"'{layer.module or layer.name}' ({layer.op}), which reads it, is grouped or shares its weight"
        if slot.role is Role.CONSUME and slot.axis > 1:
            return f"'{layer.module or layer.name}' ({layer.op}) reads them along its kernel"
    return None


class Isolation:
    """The graph with one space reduced to `channels`; computes them alone, from the values recorded of the whole graph.

    What is computed is exact for every channel that does not read its own readers, and what the new channels carry to each
    reader is exactly what they carry in the graph that they are added to, while nothing reads them.

    Attributes:
        graph: with the new channels in place of all others.
        space: the space in it.
        reads: its read sites there, each with a single band.
        calibrated: parameters that `calibrate` or `pass_on` set.

    Args:
        graph: the whole one.
        spaces: of the whole graph.
        space: its name; it is free.
        channels: to put in place of those that it has.
    """

    def __init__(self, graph: Graph, spaces: ChannelSpaces, space: str, channels: Sequence[NewChannel]) -> None:
        prunes = [PruneChannel(space, channel) for channel in range(spaces[space].size)]
        self.graph = rewrite(graph, spaces, edits_of(graph, spaces, [*channels, *prunes])).graph
        isolated = ChannelSpaces.of(self.graph)
        self.space = isolated[space]
        self.reads = tuple(site for site in read_sites(self.graph, isolated) if site.space == space)
        self.nodes = tuple(node.name for node in _carriers(self.graph, self.space, self.reads))
        self.calibrated: set[str] = set()
        self.replay = Replay(self.graph)

    def run(self, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Values of the nodes that carry the space."""
        changed: dict[str, torch.Tensor] = {}
        self.replay.run(self.nodes, changed, values)
        return changed

    def run_linear(self, start: str, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The same with gradients back to node `start`, and identities in place of the non-linearities on the way."""
        changed: dict[str, torch.Tensor] = {}
        for name in self.nodes:
            node = self.graph.nodes[name]
            behind = [i for i in node.inputs if i in changed and getattr(changed[i], "requires_grad", False)]
            self.replay.run((name,), changed, values)
            if name == start:
                changed[name] = changed[name].detach().requires_grad_(True)
            elif (
                len(behind) == 1
                and not lookup(node.op).is_linear(node, behind)
                and _alike(changed[name], changed[behind[0]])
            ):
                changed[name] = changed[behind[0]]
        return changed

    def calibrate(self, values: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
        """Set the running statistics of the channels from a batch; a norm of a channel that is constant gives zero.

        Args:
            values: of the nodes, in the batch or a share of it.
            ranks: who has the other shares.
        """

        def settled(
            norm: Node, roles: BatchStatistics, mean: torch.Tensor, var: torch.Tensor, size: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            still = var <= 1e-12 * size
            updates = {roles.mean: mean, roles.variance: torch.where(still, 1.0, var)}
            if roles.shift in norm.params:
                updates[roles.shift] = torch.where(still, 0.0, self.graph.params[norm.params[roles.shift]].data)
            return updates

        self._settle_norms(values, settled, ranks)

    def pass_on(self, values: Mapping[str, Any]) -> None:
        """Let every norm with running statistics pass on what it reads of the channels, in training too, by the batch's own.

        Its statistics become the channels' own in this batch, and its gain and shift undo them; one that has neither gets the
        statistics 0 and 1.
        """

        def settled(
            norm: Node, roles: BatchStatistics, mean: torch.Tensor, var: torch.Tensor, size: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            eps = float(norm.attrs[roles.eps])
            if not {roles.scale, roles.shift} <= set(norm.params):
                return {roles.mean: torch.zeros_like(mean), roles.variance: torch.full_like(var, 1.0 - eps)}
            return {roles.mean: mean, roles.variance: var, roles.scale: (var + eps).sqrt(), roles.shift: mean}

        self._settle_norms(values, settled)

    def _settle_norms(self, values: Mapping[str, Any], settled: Settled, ranks: Ranks = ALONE) -> None:
        changed: dict[str, torch.Tensor] = {}
        for name in self.nodes:
            node = self.graph.nodes[name]
            spec = lookup(node.op)
            if spec.statistics is not None and spec.statistics.run(node):
                read = changed[node.inputs[0]] if node.inputs[0] in changed else values[node.inputs[0]]
                rows = read.movedim(spec.channel_axis, 0).flatten(1)
                updates = settled(node, spec.statistics, *_moments(rows, ranks))
                for slot in self.space.slots:
                    for role, new in updates.items():
                        if slot.param == node.params[role]:
                            own = slice(slot.offset, slot.offset + self.space.size * slot.inner)
                            self.graph.params[slot.param].data[own] = new[own]
                            self.calibrated.add(slot.param)
            self.replay.run((name,), changed, values)

    def read(self, site: ReadSite, changed: Mapping[str, torch.Tensor], channel: int) -> torch.Tensor:
        """What a site's reader reads of one channel: the value with its channel axis reduced to the channel's entries.

        Args:
            site: one of `reads`.
            changed: node -> value, of the isolated graph.
            channel: its number among the new ones.
        """
        band = site.bands[0]
        return changed[site.edge.value].narrow(band.axis, band.start + channel * band.inner, band.inner)


def _moments(rows: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, variance and mean square of each row, of which every process has a part."""
    share = rows.shape[1] / int(ranks.total(torch.tensor(rows.shape[1]))[0])
    own = rows.mean(1)
    mean, square = ranks.total(own * share, rows.square().mean(1) * share)
    (variance,) = ranks.total((rows.var(1, correction=0) + (own - mean).square()) * share)
    return mean, variance, square


def _alike(value: Any, other: torch.Tensor) -> bool:
    """Whether `other` can stand for a value: not for a size, nor for a truth value."""
    return isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (other.shape, other.dtype)


def _carriers(graph: Graph, space: ChannelSpace, reads: Sequence[ReadSite] | Iterator[ReadSite]) -> list[Node]:
    """Nodes between the parameters of a space and its readers, in order."""
    readers = set(space.nodes(Role.CONSUME))
    own = [slot.param for slot in space.slots if slot.role is not Role.CONSUME]
    reached = {node for param in own for node, _ in graph.readers(param)}
    for node in graph.nodes.values():
        if node.name not in readers and any(i in reached for i in node.inputs):
            reached.add(node.name)
    needed = {site.edge.value for site in reads if site.space == space.name}
    for node in reversed(list(graph.nodes.values())):
        if node.name in needed and node.name in reached:
            needed.update(node.inputs)
    return [node for node in graph.nodes.values() if node.name in reached & needed]
