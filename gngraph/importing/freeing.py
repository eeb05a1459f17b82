"""Giving back early what an import no longer needs, so that its peak is what its values take."""

from __future__ import annotations

import ctypes
import sys

from torch import fx


def take_apart(graph: fx.Graph) -> None:
    """Free the nodes of a torch.fx graph now; as they refer to each other they would wait for the garbage collector.

    The graph cannot be used afterwards. O(#nodes).
    """
    for node in reversed(graph.nodes):
        graph.erase_node(node)
    vars(graph).clear()  # its tables of names hold erased nodes as well


def return_free_memory() -> None:
    """Hand free memory back to the system, where the allocator is glibc's; elsewhere nothing happens.

    glibc keeps the large blocks that a forward pass frees whenever something small lies behind them, and seldom finds that the
    next pass fits into these holes. Takes milliseconds.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
