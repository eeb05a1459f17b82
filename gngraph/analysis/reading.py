"""How a network reads its samples: what arrays of numbers alone do not tell."""

from __future__ import annotations

from gngraph.data import Reads
from gngraph.ir import Graph, Node, Slice, TensorType
from gngraph.ir.inputs import of_samples, reads_tokens
from gngraph.ops.table import lookup


def reads_of(graph: Graph) -> Reads:
    """How a network reads its samples: as tokens, or with its channels first, or last as of sequences [N, L, C].

    The first layer that reads them tells, through whatever moves axes, takes a step of one or keeps the shape. Channels are first
    where none tells, and of several inputs.

    >>> import torch
    >>> from gngraph import from_torch
    >>> reads_of(from_torch(torch.nn.Linear(6, 2), torch.zeros(2, 12, 6)))
    <Reads.CHANNELS_LAST: 'channels last'>
    >>> reads_of(from_torch(torch.nn.Conv1d(6, 2, 3), torch.zeros(2, 6, 12)))
    <Reads.CHANNELS_FIRST: 'channels first'>
    """
    if reads_tokens(graph):
        return Reads.TOKENS
    names = of_samples(graph)
    kind = graph.nodes[names[0]].type if len(names) == 1 else None
    if not isinstance(kind, TensorType) or len(kind.shape) != 3:
        return Reads.CHANNELS_FIRST
    axes = {names[0]: [0, 1, 2]}  # of each value that holds the samples: which axis of theirs each of its axes is
    for node in graph.nodes.values():
        own = next((axes[name] for name in node.inputs if name in axes), None)
        if own is None:
            continue
        if node.params:
            return Reads.CHANNELS_LAST if own[lookup(node.op).channel_axis % len(own)] == 2 else Reads.CHANNELS_FIRST
        moved = _moved(graph, node, own)
        if moved is not None:
            axes[node.name] = moved
    return Reads.CHANNELS_FIRST


def _moved(graph: Graph, node: Node, axes: list[int]) -> list[int] | None:
    """The axes of what a node gives of a value with these; None where it does more than to move or take some."""
    if node.op == "permute":
        return [axes[dim] for dim in node.attrs["dims"]]
    if node.op == "transpose":
        first, second = node.attrs["dim0"], node.attrs["dim1"]
        axes = list(axes)
        axes[first], axes[second] = axes[second], axes[first]
        return axes
    if node.op == "index" and all(isinstance(at, int | Slice) for at in node.attrs["index"]):
        taken = {axis for axis, at in enumerate(node.attrs["index"]) if isinstance(at, int)}
        return [own for axis, own in enumerate(axes) if axis not in taken]
    kind = node.type
    return axes if isinstance(kind, TensorType) and kind.shape == graph.nodes[node.inputs[0]].shape else None
