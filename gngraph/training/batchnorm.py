"""BatchNorm statistics of a rewritten network, measured anew."""

from __future__ import annotations

from itertools import islice

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from gngraph.analysis.manager import Problem
from gngraph.data import batches
from gngraph.ir import Graph
from gngraph.lowering.layout import layout_of
from gngraph.lowering.to_torch import to_torch

BATCHES = 32
"""Batches that give running statistics to about 1 %: 32 x 128 samples, each with many positions."""


def reestimate(graph: Graph, problem: Problem, *, batches_read: int = BATCHES) -> Graph:
    """`graph` with the running mean and variance of every BatchNorm as the plain average over training batches.

    All layers are measured in one go, each behind layers that normalise by their batch, as in training; dropout is off,
    augmentation on. Nothing else changes. Cost: `batches_read` forward passes; none without a BatchNorm.
    """
    module = to_torch(graph).to(problem.device)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return graph
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # asks torch for the plain average over batches
        norm.train()
    stream = batches(
        problem.train,
        problem.batch_size,
        generator=torch.Generator().manual_seed(problem.seed),
        augment=getattr(problem.data, "augment", None),
        device=problem.device,
        layout=layout_of(graph),
    )
    with torch.no_grad():
        for x, _ in islice(stream, batches_read):
            module(x)
    held = module.state_dict()
    measured = {
        param
        for node in graph.nodes.values()
        if node.op.startswith("batch_norm")
        for role, param in node.params.items()
        if role in ("running_mean", "running_var")
    }
    return graph.with_params({name: held[name].to(graph.params[name].data) for name in sorted(measured)})
