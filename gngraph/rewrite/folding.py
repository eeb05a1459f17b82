"""Folding: where what a removed channel contributed can be kept, a constant and a combination of other channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gngraph.analysis.channels import ChannelSpace, Role, Slot
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.ops import lookup


def fold_target(graph: Graph, node: str) -> tuple[str, float] | None:
    """The parameter that takes a constant added to the output of layer `node`, and the sign with which it enters.

    The layer's own bias (+1), else the running mean of a BatchNorm that alone reads the layer (-1), else None. A layer
    whose weight or bias is used by several nodes has no fold, for they may see different means; nor has one with groups,
    nor a product with a raw parameter.
    """
    layer = graph.nodes[node]
    if (
        lookup(layer.op).apply is None
        or int(layer.attrs.get("groups", 1)) > 1
        or len(graph.readers(layer.params["weight"])) > 1
    ):
        return None
    if "bias" in layer.params:
        bias = layer.params["bias"]
        return (bias, 1.0) if len(graph.readers(bias)) == 1 else None
    users = graph.users(node)
    if len(users) == 1 and node not in graph.outputs:
        norm, rank = graph.nodes[users[0]], len(layer.shape)
        spec = lookup(norm.op)
        # on tokens [N, T, F] a BatchNorm keeps T means
        alike = spec.channel_axis % rank == lookup(layer.op).channel_axis % rank
        if spec.statistics is not None and spec.statistics.run(norm) and alike:
            mean = norm.params[spec.statistics.mean]
            return (mean, -1.0) if len(graph.readers(mean)) == 1 else None
    return None


def summed_reads(weight: torch.Tensor, slot: Slot, start: int, entries: int) -> torch.Tensor:
    """What a layer makes of entries that are 1 everywhere, [out, entries]: of a kernel, the sum.

    Args:
        weight: of the layer, [out, ...].
        slot: where it reads the entries.
        start: the first of them on the slot's axis.
        entries: how many.
    """
    part = weight.narrow(slot.axis, start, entries).movedim(slot.axis, 1)
    return part.flatten(2).sum(2) if part.dim() > 2 else part


def mean_shift(
    graph: Graph, space: ChannelSpace, channel: int, means: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Changes of biases and running means that keep the mean of a pruned channel; exact away from zero padding.

    Args:
        graph: before the removal.
        space, channel: what is removed, by its number in the space.
        means: reading node -> mean of the channel's entries there, in order of its slots (a layer may read a space
            more than once, behind different non-linearities): shape [inner], or the sum of the slots' inner.

    Returns:
        parameter -> tensor of its shape, to be added.
    """
    shift: dict[str, torch.Tensor] = {}
    used = dict.fromkeys(means, 0)
    for slot in space.slots:
        target = fold_target(graph, slot.node) if slot.role is Role.CONSUME else None
        if target is None or slot.node not in means:
            continue
        param, sign = target
        weight = graph.params[slot.param].data
        summed = summed_reads(weight, slot, slot.offset + channel * slot.inner, slot.inner)
        mean = means[slot.node].narrow(0, used[slot.node], slot.inner)
        used[slot.node] += slot.inner
        delta = sign * (summed @ mean.to(summed))
        shift[param] = shift[param] + delta if param in shift else delta
    return shift


def merged_weights(
    data: Mapping[str, torch.Tensor], space: ChannelSpace, channel: int, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights that read a merged channel c, with W_j += b_j W_c for every other channel j; exact everywhere.

    Args:
        data: parameter -> tensor, as the merges before have left it.
        space, channel: what is removed, by its number in the space.
        weights: parameter that reads the space -> b, [slots, channels], a row for each of its slots.

    Returns:
        parameter -> new tensor of its shape.

    Raises:
        PassError: `weights` names a parameter that does not read the space, or has another shape.
    """
    merged: dict[str, torch.Tensor] = {}
    for param, b in weights.items():
        slots = [slot for slot in space.slots if slot.param == param and slot.role is Role.CONSUME]
        if tuple(b.shape) != (len(slots), space.size):
            raise PassError(
                f"channel {channel} of space '{space.name}' is merged with weights of shape '{tuple(b.shape)}' for "
                f"parameter '{param}', which reads the space in {len(slots)} slots of {space.size} channels"
            )
        merged[param] = data[param].clone()
        for slot, row in zip(slots, b, strict=True):
            part = merged[param].narrow(slot.axis, slot.offset, space.size * slot.inner).movedim(slot.axis, 0)
            part = part.view(space.size, slot.inner, *part.shape[1:])
            factors = row.to(part).index_fill(0, torch.tensor([channel]).to(part.device), 0.0)
            part += factors.view(-1, *[1] * (part.dim() - 1)) * part[channel]
    return merged
