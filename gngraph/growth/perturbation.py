"""Shrink and perturb: trained weights are drawn towards new initial ones, so that a grown network learns as a new one does."""

from __future__ import annotations

from gngraph.growth.restart import restarted
from gngraph.ir import Graph


def perturbed(graph: Graph, share: float, seed: int) -> Graph:
    """`graph` with `share` of new initial weights (see `restarted`) and the rest of its own.

    Matrices and kernels alone: biases and the scales of norms stay. What a network was trained to before it had all of its
    channels holds it back later; this was found for training on growing data by Ash and Adams, "On warm-starting neural network
    training", NeurIPS 2020.
    """
    new = restarted(graph, seed).params
    weights = {n: p.data for n, p in graph.params.items() if p.kind == "parameter" and p.data.dim() > 1}
    return graph.with_params({name: w.lerp(new[name].data.to(w), share) for name, w in weights.items()})
