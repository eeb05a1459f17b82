"""What `cost` does not count of a network, found by running it under torch's own counter."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gngraph.analysis.cost import multiply_adds_of
from gngraph.ir import Graph
from gngraph.lowering.counting import CountingInterpreter
from gngraph.lowering.probe import PROBE_SAMPLES, probe_of
from gngraph.lowering.to_torch import Lowered, lower


class Uncounted(NamedTuple):
    """A node that computes more than its op says; both numbers are multiply-adds of one sample."""

    node: str
    counted: int
    found: int


def uncounted(graph: Graph) -> tuple[Uncounted, ...]:
    """The nodes that multiply more than `cost` counts.

    None of those of gngraph's own op table: an op that a user registered without `positions` and `products`, or a foreign op
    of a graph that was written by hand. Shapes alone are computed where every op can do without values. O(a forward pass).

    >>> import gngraph
    >>> uncounted(gngraph.from_torch(torch.nn.Linear(3, 2), torch.zeros(1, 3)))
    ()
    """
    try:
        lowered, counts = _run(graph, "meta")
    except Exception:  # whatever an op raises that cannot run without data
        lowered, counts = _run(graph, "cpu")
    found = {name: sum(counts[step] for step in steps if step in counts) for name, steps in lowered.steps.items()}
    known = {name: multiply_adds_of(graph, name) for name in found}
    return tuple(
        Uncounted(name, known[name], -(-count // PROBE_SAMPLES))
        for name, count in found.items()
        if count > PROBE_SAMPLES * known[name]
    )


def _run(graph: Graph, device: str) -> tuple[Lowered, dict[torch.fx.Node, int]]:
    lowered = lower(graph.to(torch.float64, device))  # as the probe is
    interpreter = CountingInterpreter(lowered.module)
    with torch.no_grad(), interpreter.counting():
        interpreter.run(*(x.to(device) for x in probe_of(graph)))
    return lowered, interpreter.multiply_adds
