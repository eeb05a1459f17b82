"""From samples as data sets have them to a graph: a module that has something else in front of its samples is given them so."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from torch import Tensor, nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import TrainOnly, from_torch
from gngraph.importing.proof import NotRunningError
from gngraph.ir import Graph
from gngraph.ir.inputs import samples_behind

_MIXED = 3
"""Most inputs of which it is tried whether some have samples in front, and others not."""


def from_samples(
    module: nn.Module, samples: Any, *, output: str | None = None, train_only: TrainOnly = "refuse"
) -> Graph:
    """`from_torch` by samples as data sets have them, batch first: a module that has tokens in front of them is given them so.

    Args:
        module: see `from_torch`.
        samples: a tensor [N, ...], or a tuple or dictionary of such, as `from_torch` takes example inputs.
        output, train_only: see `from_torch`.

    Raises:
        UnsupportedModelError: as `from_torch` does.

    >>> import torch
    >>> print(from_samples(torch.nn.TransformerEncoderLayer(8, 2, 8), torch.randn(2, 5, 8)).nodes["src"].type)
    f32[5,N,8]
    """
    named: dict[Any, Tensor] = (
        samples
        if isinstance(samples, dict)
        else dict(enumerate((samples,) if isinstance(samples, Tensor) else samples))
    )
    able = [key for key, x in named.items() if x.dim() > 1]
    refused: NotRunningError | None = None
    for turned in _turned(able):
        given = {key: x.transpose(0, 1) if key in turned else x for key, x in named.items()}
        example = given if isinstance(samples, dict) else tuple(given.values())
        try:
            graph = from_torch(module, example, output=output, train_only=train_only)
        except NotRunningError as error:
            refused = refused or error
            continue
        nodes = (graph.nodes[name if isinstance(samples, dict) else graph.inputs[name]] for name in able)
        if [samples_behind(node) for node in nodes] == [key in turned for key in able]:
            return graph
    if refused is not None:
        raise refused
    raise UnsupportedModelError(
        f"along which axis '{type(module).__name__}' takes samples is not told by samples that come first in its inputs: import it "
        f"by an example as its forward takes it (gngraph.from_torch)"
    )


def _turned(keys: list[Any]) -> list[tuple[Any, ...]]:
    """Which inputs may have something else in front of the samples: none, all, or some of them."""
    some = (
        [chosen for count in range(1, len(keys)) for chosen in combinations(keys, count)] if len(keys) <= _MIXED else []
    )
    return [(), tuple(keys), *some] if keys else [()]
