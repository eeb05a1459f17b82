"""What is found of a graph alone, kept for as long as the graph lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from gngraph.ir import Graph

Fact = TypeVar("Fact")


def per_snapshot(function: Callable[[Graph], Fact]) -> Callable[[Graph], Fact]:
    """`function`, computed at most once for a graph; a graph never changes, so that a result cannot be stale.

    The result must not hold the graph, with which it is dropped.
    """
    known: weakref.WeakKeyDictionary[Graph, Fact] = weakref.WeakKeyDictionary()

    @wraps(function)
    def read(graph: Graph) -> Fact:
        if graph not in known:
            known[graph] = function(graph)
        return known[graph]

    return read
