"""Editing a graph by the rules of the op table."""

from __future__ import annotations

from gngraph.ir import Draft, Graph
from gngraph.ops.table import infer_type


def draft_of(graph: Graph) -> Draft:
    """A mutable draft of `graph`, whose types the op table infers; the graph itself never changes."""
    return Draft(graph, infer_type)
