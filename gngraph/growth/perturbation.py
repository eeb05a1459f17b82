"""Shrink and perturb: trained weights are drawn towards new initial ones, so that a grown network learns as a new one does."""

from __future__ import annotations

import torch

from gngraph.growth.restart import restarted
from gngraph.ir import Graph


def perturbed(graph: Graph, share: float, seed: int) -> Graph:
    """`graph` with `share` of new initial weights (see `restarted`) and the rest of its own.

    Matrices and kernels that training moves alone: biases and the scales of norms stay. New weights are brought to the root mean
    square of those that they are mixed into, since a user's own initialisation may have had another size than the layer's
    (embeddings, for one). What a network was trained to before it had all of its channels holds it back later; this was found
    for training on growing data by Ash and Adams, "On warm-starting neural network training", NeurIPS 2020.
    """
    new = restarted(graph, seed).params
    weights = {n: p.data for n, p in graph.params.items() if p.kind == "parameter" and p.trainable and p.data.dim() > 1}
    return graph.with_params({name: _mixed(w, new[name].data.to(w), share) for name, w in weights.items()})


def _mixed(own: torch.Tensor, new: torch.Tensor, share: float) -> torch.Tensor:
    level = own.square().mean().sqrt() / new.square().mean().sqrt().clamp(min=1e-30)
    return own.lerp(new * level, share)
