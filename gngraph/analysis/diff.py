"""`diff`: what differs between two graphs, told by channel spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.ir import Graph, GraphDiff
from gngraph.ir import diff as structural_diff
from gngraph.ir.graph import checked


def diff(a: Graph, b: Graph, *, lineage: Mapping[str, Sequence[int]] | None = None) -> GraphDiff:
    """What differs from `a` to `b`, grouped by the channel spaces of `a`.

    Args:
        a: the graph before.
        b: the graph after.
        lineage: space -> for each channel in `b` its source channel in `a`, or -1 for a new one, as in
            `GrowthResult.lineage`; then the account says which channels were split, new and pruned.

    Raises:
        IRError: `lineage` does not fit.
    """
    spaces = _axes_by_space(checked(a))
    checked(b)
    known = {name: sources for name, sources in (lineage or {}).items() if name in spaces}
    return structural_diff(a, b, spaces=spaces, lineage=known)


def recorded_lineage(seed: Graph, history: object) -> dict[str, list[int]] | None:
    """The lineage in the history of an archive, if it is of a run that started from a network as wide as `seed`.

    Args:
        seed: the network before.
        history: what `gngraph.files.archive.load_history` gave for the network after.
    """
    rounds = history.get("rounds") if isinstance(history, dict) else None
    if not isinstance(history, dict) or not isinstance(rounds, list) or not rounds or not isinstance(rounds[0], dict):
        return None
    started = rounds[0].get("trained", {}).get("widths")
    lineage: dict[str, list[int]] | None = history.get("lineage")
    return lineage if started == {space.name: space.size for space in ChannelSpaces.of(seed).free} else None


def _axes_by_space(graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """For each space its parameter axes, first one that the space fills alone, so that its size is the space's."""
    table: dict[str, list[tuple[str, int]]] = {}
    for space in ChannelSpaces.of(graph):
        whole = [
            slot
            for slot in space.slots
            if slot.inner == 1 and graph.params[slot.param].data.shape[slot.axis] == space.size
        ]
        if whole:
            first = next((slot for slot in whole if slot.role is Role.PRODUCE), whole[0])
            axes = [(first.param, first.axis), *((slot.param, slot.axis) for slot in space.slots)]
            table[space.name] = list(dict.fromkeys(axes))
    return table
