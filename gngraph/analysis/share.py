"""How much of a network can change its width: the parameters in free spaces, and the weights that are free both ways."""

from __future__ import annotations

import math

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.coupling import NETWORK_OUTPUT, UNWRITTEN
from gngraph.ir import Graph
from gngraph.ops import lookup


def share_in_free_spaces(graph: Graph, spaces: ChannelSpaces) -> float:
    """Part of the entries of all parameters that lie on an axis of a free space.

    >>> import torch, gngraph
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = gngraph.from_torch(net, torch.zeros(1, 3))
    >>> share_in_free_spaces(graph, ChannelSpaces.of(graph))  # all but the two biases of the output
    0.96

    Args:
        graph: the network.
        spaces: of `graph`.
    """
    total = outside = 0
    for name, parameter in graph.params.items():
        if parameter.kind == "parameter":
            shape = parameter.data.shape
            outside += math.prod(length - _free(spaces, name, axis) for axis, length in enumerate(shape))
            total += parameter.data.numel()
    return 1 - outside / max(1, total)


def share_free_both_ways(graph: Graph, spaces: ChannelSpaces) -> float:
    """Part of the entries of the inner weights that lie on free spaces along both of their two axes; 1 where there are none.

    These are the two that are most free, the first ones where several are alike: of a convolution what it writes and reads, and not
    its kernel; of experts in one weight, these too, and not the number of experts. Inner are weights that neither read the input of
    the network, be it beside channels, nor write its output, nor are looked up by number, nor have a single entry along one of the
    two, as those of a depthwise convolution do.

    >>> import torch, gngraph
    >>> layers = [torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)]
    >>> graph = gngraph.from_torch(torch.nn.Sequential(*layers), torch.zeros(1, 3))
    >>> share_free_both_ways(graph, ChannelSpaces.of(graph))
    1.0

    Args:
        graph: the network.
        spaces: of `graph`.
    """
    total = both = 0
    for name, parameter in graph.params.items():
        shape = parameter.data.shape
        if parameter.kind != "parameter" or len(shape) < 2:
            continue
        free = [_free(spaces, name, axis) for axis in range(len(shape))]
        degrees = [own / max(1, length) for own, length in zip(free, shape, strict=True)]
        axes = sorted(range(len(shape)), key=degrees.__getitem__, reverse=True)[:2]
        if any(shape[axis] == 1 or _is_outer(graph, spaces, name, axis) for axis in axes):
            continue
        inner = [length - _unwritten(spaces, name, axis) for axis, length in enumerate(shape)]
        total += math.prod(inner)
        both += math.prod(free[axis] if axis in axes else length for axis, length in enumerate(shape))
    return both / total if total else 1.0


def _free(spaces: ChannelSpaces, param: str, axis: int) -> int:
    """Entries of an axis that lie on free spaces."""
    slots = spaces.axes.get((param, axis), ())
    return sum(spaces[name].size * slot.inner for name, slot in slots if spaces[name].frozen is None)


def _unwritten(spaces: ChannelSpaces, param: str, axis: int) -> int:
    """Entries of an axis that read what no layer writes."""
    slots = spaces.axes.get((param, axis), ())
    return sum(
        spaces[name].size * slot.inner for name, slot in slots if (spaces[name].frozen or "").startswith(UNWRITTEN)
    )


def _is_outer(graph: Graph, spaces: ChannelSpaces, param: str, axis: int) -> bool:
    """Whether an axis is a side of the network: its input, its output, or what is looked up by number."""
    slots = spaces.axes.get((param, axis), ())
    if any((spaces[name].frozen or "").startswith(NETWORK_OUTPUT) for name, _ in slots):
        return True
    for node, _ in graph.readers(param):
        layer = graph.nodes[node]
        spec = lookup(layer.op)
        if spec.looked_up is not None:
            return True
        read = graph.nodes[layer.inputs[0]] if layer.inputs else layer
        channels = spec.channel_axis % max(1, len(read.shape))
        held = all(
            spaces[name].frozen is not None for name, _ in slots
        )  # where its dtype is read, its axes are values' too
        if held and spec.is_layer and (read.name, channels) not in spaces.layouts:
            return True
    return False
