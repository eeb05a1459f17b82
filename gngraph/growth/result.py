"""What a run gave."""

from __future__ import annotations

from dataclasses import dataclass

from gngraph.growth.history import Record
from gngraph.ir import Graph


@dataclass(frozen=True, eq=False)
class GrowthResult:
    """What a run gave.

    Attributes:
        seed: the network as it was given.
        graph: the grown and trained network.
        history: a record a round, and the record of the final training; see `gngraph.growth.history`.
        channels: what was known of every channel round by round; see `gngraph.growth.channel_records`.
        lineage: space -> for each channel of `graph` its source channel in `seed`, or -1 for a new one.
        comparison: what was trained beside it, a record each; see `gngraph.growth.comparison`.
        doubted: whether `seed` may know the samples that it was judged by; see `gngraph.search.chance.may_know`.
    """

    seed: Graph
    graph: Graph
    history: list[Record]
    channels: list[Record]
    lineage: dict[str, list[int]]
    comparison: list[Record]
    doubted: bool
