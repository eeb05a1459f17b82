"""The graph IR: immutable snapshots of networks, edited through drafts."""

from gngraph.ir.diff import diff
from gngraph.ir.draft import Draft
from gngraph.ir.graph import Graph
from gngraph.ir.graph_diff import GraphDiff
from gngraph.ir.text import format_graph, parse, same_structure
from gngraph.ir.types import (
    BATCH,
    Attr,
    Dim,
    DType,
    Flag,
    Items,
    Listed,
    Node,
    OpaqueType,
    Parameter,
    Ref,
    Slice,
    TensorType,
    TupleType,
    Type,
)
from gngraph.ir.verify import verify

__all__ = [
    "BATCH",
    "Attr",
    "DType",
    "Dim",
    "Draft",
    "Flag",
    "Graph",
    "GraphDiff",
    "Items",
    "Listed",
    "Node",
    "OpaqueType",
    "Parameter",
    "Ref",
    "Slice",
    "TensorType",
    "TupleType",
    "Type",
    "diff",
    "format_graph",
    "parse",
    "same_structure",
    "verify",
]
