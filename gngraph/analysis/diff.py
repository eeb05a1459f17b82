"""`diff`: what differs between two graphs, told by channel spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.naming import named_alike
from gngraph.ir import Graph, GraphDiff
from gngraph.ir import diff as structural_diff
from gngraph.ir.graph import checked


def diff(a: Graph, b: Graph, *, lineage: Mapping[str, Sequence[int]] | None = None) -> GraphDiff:
    """What differs from `a` to `b`, grouped by the channel spaces of `a`.

    Where no lineage tells what became of its channels and names do not agree, nodes are matched by structure (`named_alike`), and
    what is told of `b` is told under the names of `a`.

    Args:
        a: the graph before.
        b: the graph after.
        lineage: space -> for each channel in `b` its source channel in `a`, or -1 for a new one, as in
            `GrowthResult.lineage`; then the account says which channels were split, new and pruned.

    Raises:
        IRError: `lineage` does not fit.
    """
    b, renamed = (b, {}) if lineage is not None else named_alike(checked(a), checked(b))
    spaces, sizes = _followed(checked(a), checked(b))
    known = {name: sources for name, sources in (lineage or {}).items() if name in spaces}
    found = structural_diff(a, b, spaces=spaces, sizes=sizes, lineage=known)
    return replace(found, renamed=renamed) if renamed else found


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


def _followed(a: Graph, b: Graph) -> tuple[dict[str, list[tuple[str, int]]], dict[str, tuple[int, int]]]:
    """Parameter axes of each space of `a`, first one that it fills alone; and the sizes in both of those that fill none alone.

    The latter, such as queries, keys and values in one weight, are in `b` what stands at the same place of an axis.
    """
    axes: dict[str, list[tuple[str, int]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for space in ChannelSpaces.of(a):
        own = list(dict.fromkeys((slot.param, slot.axis) for slot in space.slots))
        whole = [
            slot for slot in space.slots if slot.inner == 1 and a.params[slot.param].data.shape[slot.axis] == space.size
        ]
        if whole:
            first = next((slot for slot in whole if slot.role is Role.PRODUCE), whole[0])
            axes[space.name] = list(dict.fromkeys([(first.param, first.axis), *own]))
        elif (found := next(filter(None, (_size_at(a, b, axis, space.name) for axis in own)), None)) is not None:
            axes[space.name], sizes[space.name] = own, (space.size, found)
    return axes, sizes


def _size_at(a: Graph, b: Graph, axis: tuple[str, int], space: str) -> int | None:
    """The size in `b` of what stands where a space of `a` does; None where the axis is not divided alike."""
    param, number = axis
    before, after = ChannelSpaces.of(a).axes[axis], ChannelSpaces.of(b).axes.get(axis, ())
    if param in b.params and {name for name, _ in before} == {space}:  # several times, one space after the other
        entries, left = divmod(b.params[param].data.shape[number], sum(slot.inner for _, slot in before))
        return entries if not left else None
    if [name for name, _ in before] != [name for name, _ in after]:
        return None
    return ChannelSpaces.of(b)[space].size
