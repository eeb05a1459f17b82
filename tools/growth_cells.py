"""The network of the size space of NATS-Bench (Dong et al., TPAMI 2021), and its random architectures of one size.

A stem, three cells of five convolutions, and between them residual blocks that halve the resolution: five widths, each one of
8, 16, ..., 64. The cell is that of the benchmark; where the width of a cell may be another than that of what it reads, a
convolution of 1 x 1 is in the place of its skip connection, as the benchmark has it where the two differ. What grows may give
each of the three layers of a cell a width of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from statistics import median

import torch
from torch import Tensor, nn

from gngraph.analysis.cost import Budget, Cost
from gngraph.data import Data
from gngraph.errors import BudgetError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph

CELLS = "nats-size"
"""Name of the network that `cells` makes."""

WIDTHS = tuple(range(8, 65, 8))
"""Of the size space."""

WITHIN = 0.1
"""Share of a budget by which a random architecture may be smaller, in parameters and in FLOPs."""


def _unit(read: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(read, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), layer, nn.BatchNorm2d(width))


class Cell(nn.Module):
    """|conv 3x3~0| + |conv 3x3~0|conv 3x3~1| + |skip~0|conv 3x3~1|conv 3x3~2|, as the size space has it."""

    def __init__(self, read: int, width: int, projects: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = _unit(read, width), _unit(read, width), _unit(width, width)
        self.fourth, self.fifth = _unit(width, width), _unit(width, width)
        self.skip = _unit(read, width, 1) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, read, H, W] -> [N, width, H, W]."""
        a = self.first(x)
        b = self.second(x) + self.third(a)
        y: Tensor = self.skip(x) + self.fourth(a) + self.fifth(b)
        return y


class Halving(nn.Module):
    """A residual block of stride 2."""

    def __init__(self, read: int, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_unit(read, width, stride=2), _unit(width, width))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(read, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[N, read, H, W] -> [N, width, H / 2, W / 2]."""
        y: Tensor = self.shortcut(x) + self.branch(x)
        return y


def cells(widths: Sequence[int], data: Data) -> nn.Sequential:
    """The network of five widths: of stem and first cell, block, cell, block, cell."""
    one, two, three, four, five = widths
    stem = nn.Sequential(nn.Conv2d(data.input_shape[0], one, 3, padding=1, bias=False), nn.BatchNorm2d(one))
    parts = [
        stem, Cell(one, one, False), Halving(one, two), Cell(two, three, True), Halving(three, four),
        Cell(four, five, True), nn.BatchNorm2d(five), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ]  # fmt: skip
    return nn.Sequential(*parts, nn.Linear(five, data.outputs))


def cells_graph(widths: Sequence[int], data: Data) -> Graph:
    """The same as a graph, on the CPU."""
    return from_torch(cells(widths, data), torch.zeros(2, *data.input_shape))


@cache
def sizes_of(shape: tuple[int, ...], outputs: int) -> dict[tuple[int, ...], Cost]:
    """Cost of every architecture of the space; what a layer multiplies is counted as `gngraph.analysis.cost.cost` does."""
    areas = [shape[1] * shape[2] // 4**halvings for halvings in range(3)]
    sizes: dict[tuple[int, ...], Cost] = {}
    for one, two, three, four, five in product(WIDTHS, repeat=5):
        weights = [(9 * shape[0] * one, 0), (5 * 9 * one * one, 0)]
        weights += [
            (9 * one * two + 9 * two * two + one * two, 1),
            (9 * (2 * two * three + 3 * three * three) + two * three, 1),
        ]
        weights += [(9 * three * four + 9 * four * four + three * four, 2)]
        weights += [(9 * (2 * four * five + 3 * five * five) + four * five, 2)]
        norms = 2 * (one + 5 * one + 2 * two + 6 * three + 2 * four + 6 * five + five)
        params = sum(count for count, _ in weights) + norms + outputs * (five + 1)
        flops = 2 * sum(count * areas[at] for count, at in weights) + 2 * outputs * five
        sizes[one, two, three, four, five] = Cost(params, flops)
    return sizes


def budget_of_cells(params: int, data: Data) -> Budget:
    """So many parameters, and the FLOPs that architectures of that size have in the median.

    Raises:
        BudgetError: there are none of that size.
    """
    own = [
        size.flops
        for size in sizes_of(data.input_shape, data.outputs).values()
        if (1 - WITHIN) * params <= size.params <= params
    ]
    if not own:
        raise BudgetError(f"no architecture of the size space has some {params:,} parameters")
    return Budget(params, int(median(own)))


def random_cells(number: int, budget: Budget, data: Data) -> Graph:
    """A random architecture of the size of a budget; for each number another one, and always the same.

    Raises:
        BudgetError: there are not so many of that size.
    """
    most = [(side, most) for side, most in zip(("params", "flops"), budget.sides, strict=False) if most is not None]
    fitting = [
        widths
        for widths, size in sizes_of(data.input_shape, data.outputs).items()
        if all((1 - WITHIN) * limit <= getattr(size, side) <= limit for side, limit in most)
    ]
    random.Random(0).shuffle(fitting)
    if number > len(fitting):
        raise BudgetError(f"the size space has {len(fitting)} architectures of {budget.text}, not {number}")
    return cells_graph(fitting[number - 1], data)
