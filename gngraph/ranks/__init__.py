"""Several processes that do one work: who they are, what each takes of it, and how their parts become one again."""

from __future__ import annotations

from gngraph.ranks.group import ALONE, LostRankError, Ranks, here, working
from gngraph.ranks.joining import default_group, joined, local_device, tells
from gngraph.ranks.norms import whole_batches

__all__ = [
    "ALONE",
    "LostRankError",
    "Ranks",
    "default_group",
    "here",
    "joined",
    "local_device",
    "tells",
    "whole_batches",
    "working",
]
