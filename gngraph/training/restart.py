"""An architecture from the start again: new initial weights."""

from __future__ import annotations

import torch

from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.zoo.spec import initialise_convolutions


def restarted(graph: Graph, seed: int) -> Graph:
    """`graph` with new initial weights: He's for convolutions, for every other layer those of its own `reset_parameters`.

    How a user initialised the network cannot be read from it. A parameter that belongs to no layer with `reset_parameters`, or
    that training holds, keeps its value. Torch's global random state is left as it was.
    """
    module = to_torch(graph)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if reset is not None:
                reset()
        initialise_convolutions(module)
    held = module.state_dict()
    return graph.with_params(
        {
            name: held[name].detach().clone()
            for name, p in graph.params.items()
            if p.kind != "constant" and (p.kind != "parameter" or p.trainable)
        }
    )
