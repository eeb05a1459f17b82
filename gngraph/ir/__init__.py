"""The graph IR: immutable snapshots of networks, edited through drafts."""

from gngraph.ir.draft import Draft
from gngraph.ir.graph import Graph
from gngraph.ir.types import (
    BATCH,
    Attr,
    Dim,
    DType,
    Flag,
    Items,
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
    "Items",
    "Node",
    "OpaqueType",
    "Parameter",
    "Ref",
    "Slice",
    "TensorType",
    "TupleType",
    "Type",
    "verify",
]
