"""What is found of a graph alone, kept for as long as the graph lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from gngraph.ir import Graph

Found = TypeVar("Found")


def per_snapshot(function: Callable[[Graph], Found]) -> Callable[[Graph], Found]:
    """`function`, computed at most once for a graph; a graph never changes, so that a result cannot be stale.

    The result must not hold the graph, with which it is dropped.
    """
    known: weakref.WeakKeyDictionary[Graph, Found] = weakref.WeakKeyDictionary()

    @wraps(function)
    def read(graph: Graph) -> Found:
        if graph not in known:
            known[graph] = function(graph)
        return known[graph]

    return read
