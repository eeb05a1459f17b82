"""Plain designs: what a person would build at a budget, for any seed network, through its channel spaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, cost
from gngraph.data import Data
from gngraph.errors import BudgetError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.passes.channel_choice import weakest
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel
from gngraph.search.designs import widths_within
from gngraph.zoo import build_seed
from tools.growth_cells import CELLS, WIDTHS, cells
from tools.growth_transformers import SMALL_VIT, small_vit

FAMILY = "family"
SHAPES: Mapping[str, Callable[[int], float]] = {
    "uniform": lambda base: 1.0,
    "pyramid": float,
    "soft-pyramid": math.sqrt,
}
"""Plain designs: width of a space, up to a common factor, from its width in the family's own network."""

DESIGNS = (FAMILY, *SHAPES)


def family(network: str, data: Data, width: float) -> Graph:
    """The family's network at a width multiplier, on the CPU; it is to be freshly initialised before it is trained."""
    return from_torch(_seed(network, data, width), torch.zeros(2, *data.input_shape))


def _seed(network: str, data: Data, width: float) -> nn.Module:
    if " " in network:
        return chain(network, data, max(1, round(32 * width)))
    if network == SMALL_VIT:
        return small_vit(width, data.outputs, data.input_shape)
    if network == CELLS:
        return cells([max(1, round(WIDTHS[-1] * width))] * 5, data)
    return build_seed(network, width=width, classes=data.outputs, input_shape=data.input_shape)


class Residual(nn.Module):
    """A branch that is added to what it reads, of the same shape."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return x + cast(torch.Tensor, self.branch(x))


def chain(text: str, data: Data, width: int) -> nn.Sequential:
    """A plain chain of layers with norms and ReLUs, a mean over positions and a linear head.

    Args:
        text: `c3`, a convolution with a kernel of 3; `c3s2`, with a stride of 2; `d3`, a separable one; `r3`, one that is added to
            what it reads; `p`, max pooling by 2.
        data: for its input and classes.
        width: of every layer.

    >>> from types import SimpleNamespace
    >>> made = chain("c3 p d5", SimpleNamespace(input_shape=(3, 8, 8), outputs=10), 4)
    >>> [tuple(part.weight.shape) for part in made if isinstance(part, nn.Conv2d)]
    [(4, 3, 3, 3), (4, 1, 5, 5), (4, 4, 1, 1)]
    """
    parts, read = list[nn.Module](), data.input_shape[0]
    for word in text.split():
        kernel, _, stride = word[1:].partition("s")
        if word == "p":
            parts.append(nn.MaxPool2d(2))
        elif word[0] == "c":
            parts += _unit(read, width, int(kernel), int(stride or 1))
        elif word[0] == "d":
            parts += [*_unit(read, read, int(kernel), int(stride or 1), groups=read)[:2], *_unit(read, width, 1)]
        else:
            parts.append(Residual(nn.Sequential(*_unit(width, width, int(kernel)))))
        read = read if word == "p" else width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, data.outputs))


def _unit(read: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(read, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.ReLU()]


def designed(design: str, network: str, data: Data, budget: Budget) -> Graph:
    """The largest network of a design within a budget.

    Raises:
        BudgetError: even the narrowest is too large.
    """
    if design == FAMILY:
        return family_within(network, data, budget)
    base = family(network, data, 1.0)
    return to_widths(base, widths_within(base, SHAPES[design], budget))


def family_within(network: str, data: Data, budget: Budget) -> Graph:
    """The family at the largest width multiplier within a budget, found by bisection.

    Raises:
        BudgetError: even the narrowest is too large.
    """
    imported: dict[tuple[torch.Size, ...], Graph] = {}

    def made(width: float) -> Graph:
        """Many width multipliers round to the same widths."""
        shapes = tuple(x.shape for x in _seed(network, data, width).state_dict().values())
        if shapes not in imported:
            imported[shapes] = family(network, data, width)
        return imported[shapes]

    low, high = 1e-3, 1.0
    best = made(low)
    if not budget.allows(cost(best)):
        raise BudgetError(_too_small(network, cost(best), budget))
    while budget.allows(cost(made(high))) and high < 64:
        low, high = high, 2 * high
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        graph = made(middle)
        if budget.allows(cost(graph)):
            low, best = middle, graph
        else:
            high = middle
    return best


def to_widths(graph: Graph, widths: Mapping[str, int], generator: torch.Generator | None = None) -> Graph:
    """`graph` with its free spaces at the given widths: the channels read least are pruned, new ones preserve the function."""
    spaces = ChannelSpaces.of(graph)
    morphisms: list[Morphism] = []
    for space in spaces.free:
        change = widths[space.name] - space.size
        if change < 0:
            morphisms += [PruneChannel(space.name, c) for c in weakest("prune", graph, space, -change)]
        morphisms += [NewChannel(space.name)] * max(0, change)
    return morph(graph, spaces, morphisms, generator).graph


def widths_of(graph: Graph) -> dict[str, int]:
    """Width of every free space."""
    return {space.name: space.size for space in ChannelSpaces.of(graph).free}


def budget_text(parts: Iterable[int | None]) -> str:
    """Parameters and FLOPs as a label.

    >>> budget_text((100_000, None)), budget_text((100_000, 2_000_000))
    ('100k params', '100k params, 2M FLOPs')
    """
    named = zip(parts, ("params", "FLOPs"), strict=True)
    return ", ".join(f"{_short(count)} {what}" for count, what in named if count is not None)


def _short(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.4g}{letter}"
    return str(count)


def _too_small(network: str, size: Cost, budget: Budget) -> str:
    return (
        f"the narrowest '{network}' has {size.params:,} parameters and {size.flops:,} FLOPs, beyond the budget of "
        f"{budget.text}; raise the budget"
    )
