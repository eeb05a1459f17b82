"""Random sets of morphisms of channels and layers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import torch

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role
from gngraph.analysis.topology import cut_points
from gngraph.ir import Graph
from gngraph.rewrite.insertion import BLOCKS
from gngraph.rewrite.morphism import InsertLayer, MergeChannel, Morphism, NewChannel, PruneChannel, SplitChannel


def morphisms_of(number: int, graph: Graph, spaces: ChannelSpaces) -> list[Morphism]:
    """A set of morphisms, often one, each of another channel; none where nothing can change."""
    draw = random.Random(number)
    generator = torch.Generator().manual_seed(number)
    chosen: list[Morphism] = []
    left = {space.name: list(range(space.size)) for space in spaces.free}
    kinds = draw.choice((("split", "new", "prune", "merge"), ("split", "new"), ("prune", "merge")))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6)) if spaces.free else 0):
        space, kind = draw.choice(spaces.free), draw.choice(kinds)
        channels = left[space.name]
        draw.shuffle(channels)
        if kind == "new":
            chosen.append(NewChannel(space.name, _rows(space, graph, draw, generator)))
        elif kind == "split" and channels and not space.tied:  # such are refused
            chosen.append(SplitChannel(space.name, channels.pop()))
        elif kind == "prune" and len(channels) > 1:
            chosen.append(PruneChannel(space.name, channels.pop(), _means(space, draw, generator)))
        elif kind == "merge" and len(channels) > 1 and not space.tied:
            channel, sources = channels.pop(), [channels.pop() for _ in range(draw.randint(1, len(channels)))]
            chosen.append(
                MergeChannel(
                    space.name, channel, merge_weights(space, sources, generator), _means(space, draw, generator)
                )
            )
    points = cut_points(graph, spaces)
    if points and draw.random() < 0.25:
        point = draw.choice(points)
        chosen.append(InsertLayer(point.value, draw.choice(BLOCKS[not point.nonnegative :])))
    return chosen


def merge_weights(
    space: ChannelSpace, sources: Sequence[int], generator: torch.Generator | None
) -> dict[str, torch.Tensor]:
    """From which channels each reader rebuilds a merged one: at random, or by their plain sum."""
    weights = {}
    for param, count in Counter(slot.param for slot in space.slots if slot.role is Role.CONSUME).items():
        shape = count, len(sources)
        factors = torch.ones(shape) if generator is None else torch.randn(shape, generator=generator)
        weights[param] = torch.zeros(count, space.size, dtype=torch.float64)
        weights[param][:, list(sources)] = factors.double()
    return weights


def _rows(
    space: ChannelSpace, graph: Graph, draw: random.Random, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Entries of a new channel for one parameter that writes the space, or none."""
    writers = [slot for slot in space.slots if slot.role is Role.PRODUCE]
    if not writers or draw.random() < 0.6 or space.tied:
        return {}
    slot = draw.choice(writers)
    shape = list(graph.params[slot.param].data.shape)
    shape[slot.axis] = sum(s.inner for s in space.slots if (s.param, s.axis) == (slot.param, slot.axis))
    return {slot.param: torch.randn(shape, generator=generator, dtype=torch.float64)}


def _means(space: ChannelSpace, draw: random.Random, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Means that some readers of a pruned channel keep."""
    means = {}
    for reader in space.nodes(Role.CONSUME):
        if draw.random() < 0.2:
            inner = sum(s.inner for s in space.slots if s.node == reader and s.role is Role.CONSUME)
            means[reader] = torch.randn(inner, generator=generator, dtype=torch.float64)
    return means
