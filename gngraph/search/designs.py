"""Plain designs: the widths that a person would give an architecture at a budget."""

from __future__ import annotations

from collections.abc import Callable

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget
from gngraph.errors import BudgetError
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel


def widths_within(graph: Graph, shape: Callable[[int], float], budget: Budget) -> dict[str, int]:
    """Widths of the free spaces of `graph` in the proportions of a shape, as large as a budget allows.

    The common factor is found by bisection on the cost model; what rounding leaves over is given out, a channel a space, in the
    order of the network, as long as it fits.

    Args:
        graph: the network.
        shape: width of a space, up to the factor, from its width in the network.
        budget: bounded on one side at least.

    Raises:
        BudgetError: even one channel a space is too much.
    """
    spaces = ChannelSpaces.of(graph)
    model = budget.model(graph, spaces)
    shares = {space.name: shape(space.size) for space in spaces.free}

    def at(factor: float) -> dict[str, int]:
        return {**model.widths, **{name: max(1, round(factor * share)) for name, share in shares.items()}}

    def allowed(factor: float) -> bool:
        return budget.allows(model.of(at(factor)))

    if not allowed(0.0):
        least = model.of(at(0.0))
        raise BudgetError(
            f"the narrowest '{graph.name}' has {least.params:,} parameters and {least.flops:,} FLOPs, beyond the budget of "
            f"{budget.text}; raise the budget"
        )
    low, high = 0.0, 1.0
    while allowed(high) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    widths = at(low)
    for name in shares:
        if budget.allows(model.of({**widths, name: widths[name] + 1})):
            widths[name] += 1
    return {name: widths[name] for name in shares}


def scaled(graph: Graph, budget: Budget) -> Graph:
    """The architecture at widths in the proportions that it has, as large as a budget allows; its values are to be drawn anew.

    Args:
        graph: the network.
        budget: bounded on one side at least.

    Raises:
        BudgetError: even one channel a space is too much.
    """
    spaces, morphisms = ChannelSpaces.of(graph), list[Morphism]()
    for name, width in widths_within(graph, float, budget).items():
        size = spaces[name].size
        morphisms += [PruneChannel(name, channel) for channel in range(width, size)]
        morphisms += [NewChannel(name)] * max(0, width - size)
    return morph(graph, spaces, morphisms).graph
