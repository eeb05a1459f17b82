"""Networks to be timed: at other widths, with weights at random, and as modules of timed units."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx
from torch.fx.passes.split_module import split_module

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.latency.units import TimedUnit
from gngraph.lowering.to_torch import lower
from gngraph.ops.draft import draft_of
from gngraph.rewrite.surgery import follow_widths

NARROWEST, WIDEST, APART = 0.5, 2.0, 0.35
"""Networks that are timed have all widths scaled by the first to the second, and each by e to the third at most beside."""


UNIT = "submod_"
"""What the module of a unit is called, before its number."""


def sampled_widths(spaces: ChannelSpaces, count: int, block: int) -> list[dict[str, int]]:
    """Widths at random, the same every time; each is full blocks in half of the networks, and the first are those of the network.

    Args:
        spaces: of the network.
        count: how many networks.
        block: channels that the hardware takes at a time.
    """
    draw, found = random.Random(0), [{space.name: space.size for space in spaces}]
    for number in range(1, count):
        share = (number - 0.5) / (count - 1)
        common = NARROWEST ** (1 - share) * WIDEST**share
        widths = dict(found[0])
        for space in spaces.free:
            width = max(1, round(space.size * common * math.exp(draw.uniform(-APART, APART))))
            widths[space.name] = -(-width // block) * block if draw.random() < 0.5 else width
        found.append(widths)
    return found


def at_widths(graph: Graph, spaces: ChannelSpaces, widths: Mapping[str, int]) -> Graph:
    """The network at other widths, with weights at random: small ones of either sign; factors and variances near 1.

    Args:
        graph: the network.
        spaces: of it.
        widths: of every space, by name.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = {name: list(parameter.data.shape) for name, parameter in graph.params.items()}
    for (param, axis), slots in spaces.axes.items():
        shapes[param][axis] += sum(slot.inner * (widths[name] - spaces[name].size) for name, slot in slots)
    draft = draft_of(graph)
    for name, parameter in graph.params.items():
        data = parameter.data
        if data.is_floating_point():
            drawn = torch.rand(shapes[name], generator=generator)
            data = ((drawn - 0.5) / 10 if drawn.dim() > 1 else drawn + 0.5).to(data.dtype)
        elif list(data.shape) != shapes[name]:
            data = torch.zeros(shapes[name], dtype=data.dtype)
        draft.set_param(name, replace(parameter, data=data))
    follow_widths(draft, graph, spaces, widths)
    return draft.commit()


def in_units(graph: Graph, units: Sequence[TimedUnit]) -> fx.GraphModule:
    """A module of the network, in eval mode, in which every unit is one of its own, called `UNIT` and its number.

    Args:
        graph: the network, with values.
        units: of it.
    """
    lowered = lower(graph)
    numbers = {name: number for number, unit in enumerate(units) for name in unit.nodes}
    step_numbers: dict[str, int] = {}
    for extra, (name, steps) in enumerate(lowered.steps.items(), len(units)):
        step_numbers |= dict.fromkeys((step.name for step in steps), numbers.get(name, extra))
    return split_module(lowered.module, lowered.module, lambda step: step_numbers[step.name]).eval()
