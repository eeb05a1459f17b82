"""Norms whose forward counts batches by itself, as torch's own do: a count and a call of batch_norm are one BatchNorm."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace

from torch import fx
from torch.nn import functional as F

from gngraph.importing.fx_calls import bind
from gngraph.ir import Flag, Node
from gngraph.ops import spec_of_function

COUNTER = "counter"
"""Set in the `meta` of calls of batch_norm to the path of the norm that counts its batches."""

COUNTER_NAME = "num_batches_tracked"
"""Name of the buffer in which torch's norms count their batches."""
_RANKS = {2: "batch_norm1d", 3: "batch_norm1d", 4: "batch_norm2d", 5: "batch_norm3d"}


def fold_counters(graph: fx.Graph, updates: Mapping[str, fx.Node]) -> dict[str, fx.Node]:
    """Mark the calls of norms that count their batches, and take the counts out; the other updates are given back.

    Args:
        graph: a trace in train mode.
        updates: the buffers that it changes, with the nodes that do.
    """
    left = {}
    for buffer, node in updates.items():
        path, _, name = buffer.rpartition(".")
        calls = [call for call in graph.nodes if call.target is F.batch_norm and _statistics_of(call) == path]
        if name == COUNTER_NAME and calls and _counts_one(node, buffer):
            for call in calls:
                call.meta[COUNTER] = path
            graph.erase_node(node)
        else:
            left[buffer] = node
    return left


def _statistics_of(call: fx.Node) -> str | None:
    """The module whose running mean a call of batch_norm moves."""
    spec = spec_of_function(F.batch_norm)
    known = spec.call_of(F.batch_norm) if spec is not None else None
    bound = bind(known, call, {}) if known is not None else None
    mean = bound["running_mean"] if bound is not None else None
    if not isinstance(mean, fx.Node) or mean.op != "get_attr":
        return None
    return str(mean.target).removesuffix(".running_mean")


def _counts_one(node: fx.Node, buffer: str) -> bool:
    counted, *number = node.args
    adds = node.target in ("add", "add_", operator.add, operator.iadd) and number == [1] and not node.kwargs
    return adds and not node.users and isinstance(counted, fx.Node) and counted.target == buffer


def counting(node: Node, path: str, rank: int) -> Node:
    """The call of batch_norm `node`, on values of `rank` axes, as the module at `path`, which counts batches by itself."""
    if node.op != "batch_norm" or node.attrs["training"] != Flag("training") or rank not in _RANKS:
        return node
    params = {**node.params, COUNTER_NAME: f"{path}.{COUNTER_NAME}"}
    attrs = {"eps": node.attrs["eps"], "momentum": node.attrs["momentum"]}
    return replace(node, op=_RANKS[rank], params=params, attrs=attrs, module=path)
