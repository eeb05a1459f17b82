"""Shrink and perturb: trained weights are drawn towards new initial ones, so that a grown network learns as a new one does."""

from __future__ import annotations

import torch

from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.rewrite.surgery import padding_rows
from gngraph.training.restart import restarted


def perturbed(graph: Graph, share: float, seed: int) -> Graph:
    """`graph` with `share` of new initial weights (see `restarted`) and the rest of its own.

    Matrices, kernels and tables that training moves alone: biases, scales and the padding rows of embeddings stay. New
    weights are brought to the root mean square of those that they are mixed into, since a user's own initialisation may have had
    another size than the layer's (embeddings, for one). What a network was trained to before it had all of its channels holds it
    back later; this was found for training on growing data by Ash and Adams, "On warm-starting neural network training",
    NeurIPS 2020.

    The mixture is smaller than what was mixed, by a quarter at a share of .3. Weights stay so where nothing but a BatchNorm, or
    nothing at all, reads what they give: with the one their size matters only to the step that training takes, which is the larger
    for it, and an output layer becomes less sure. All others get back their size, or every layer of a network without norms would
    pass on less (`tools/bench_perturbation.py` grows networks of each sort).

    Args:
        graph: a trained network.
        share: from 0, which changes nothing, to 1, which keeps only what is not mixed.
        seed: of the new weights.
    """
    new = restarted(graph, seed).params
    weights = {
        n: p.data
        for n, p in graph.params.items()
        if p.kind == "parameter" and p.trainable and p.data.dim() > 1 and float(new[n].data.std()) > 0
    }
    mixed = {name: w.lerp(_to_size(new[name].data.to(w), w), share) for name, w in weights.items()}
    mixed = {n: m if _sizeless(graph, n) else _to_size(m, weights[n]) for n, m in mixed.items()}
    for name, weight in weights.items():
        for row in padding_rows(graph, name):
            mixed[name][row] = weight[row]
    return graph.with_params(mixed)


def _to_size(weight: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """`weight` at the root mean square of `model`."""
    return weight * (model.square().mean().sqrt() / weight.square().mean().sqrt().clamp(min=1e-30))


def _sizeless(graph: Graph, param: str) -> bool:
    """Whether nothing but BatchNorms that normalise by the batch reads what the layers of a parameter write."""
    readers = [graph.nodes[user] for node, _ in graph.readers(param) for user in graph.users(node)]
    statistics = [(reader, lookup(reader.op).statistics) for reader in readers]
    return all(norm is not None and norm.of_batch(reader) for reader, norm in statistics)
