"""Rows of several samples that lie in another order, as those of a mixture of experts do: which row belongs to which sample.

Where every row belongs to one sample its gradient is in proportion to a factor on the loss of that. So gradients of losses that are
weighted by a sample's number tell it, digit by digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gngraph.curvature import Outputs, leaves, pull_back, replaced
from gngraph.curvature.outputs import TreePath
from gngraph.errors import GnGraphError
from gngraph.ir import BATCH, Graph, TensorType
from gngraph.scoring.sites import Edge

_BASE = 32
"""Of the digits: one of them is told by a gradient that is off by less than a hundredth."""


def has_rows(graph: Graph, edge: Edge) -> bool:
    """Whether what is read over an edge is rows, several for each sample, in an order that is not known.

    Args:
        graph: the network.
        edge: of it.
    """
    type_ = None if edge.of_state else graph.nodes[edge.value].type
    if not isinstance(type_, TensorType) or len(type_.shape) != 2 or type_.dtype[0] != "f":
        return False
    return isinstance(type_.shape[0], str) and type_.shape[0] != BATCH


def rows_by_sample(outputs: Outputs, slope: Outputs, held: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """For each value the numbers of its rows, sample by sample, [N, K].

    Args:
        outputs: of the network, with what they were computed from.
        slope: as they are: any gradient of them.
        held: values [N * K, F] that the outputs were computed from.
        count: N.

    Raises:
        GnGraphError: a row belongs to several samples, or some samples have more rows than others.
    """
    probe = {path: torch.arange(t.numel()).to(t).cos().view_as(t) for path, t in leaves(slope).items()}
    plain = _pulled(outputs, slope, probe, held)
    owners = [torch.zeros(len(value), dtype=torch.long, device=value.device) for value in held]
    power = 1
    while power < count:
        digits = (torch.arange(count) // power) % _BASE
        weighted = {path: t * (1 + digits.to(t)).view(-1, *[1] * (t.dim() - 1)) for path, t in probe.items()}
        for i, (one, many) in enumerate(zip(plain, _pulled(outputs, slope, weighted, held), strict=True)):
            place = one.abs().argmax(1, keepdim=True)
            ratio = (many.gather(1, place) / one.gather(1, place)).squeeze(1).nan_to_num(1.0) - 1
            if bool(((ratio - ratio.round()).abs() > 0.3).any()):
                raise GnGraphError(
                    "rows of experts belong to several samples at once, whose effects cannot be told apart"
                )
            owners[i] += ratio.round().long() * power
        power *= _BASE
    return [_sorted(owner, one, count) for owner, one in zip(owners, plain, strict=True)]


def arranged(value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A value [*lead, N * K, F] as [*lead, N, F, K].

    Args:
        value: of a node, or gradients of its shape.
        rows: [N, K].
    """
    taken = value[..., rows.flatten(), :]
    return taken.view(*taken.shape[:-2], *rows.shape, taken.shape[-1]).transpose(-1, -2)


def _pulled(
    outputs: Outputs, slope: Outputs, gradients: Mapping[TreePath, torch.Tensor], held: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    found = pull_back(outputs, replaced(slope, gradients), list(held), retain_graph=True)
    return [torch.zeros_like(value) if g is None else g for g, value in zip(found, held, strict=True)]


def _sorted(owner: torch.Tensor, gradient: torch.Tensor, count: int) -> torch.Tensor:
    """Rows by their owners; those that no loss depends on go wherever some are missing."""
    each, rest = divmod(len(owner), count)
    known = gradient.any(1)
    counts = torch.bincount(owner[known], minlength=count)
    if rest or len(counts) > count or int(counts.max()) > each:
        raise GnGraphError("some samples have more rows of experts than others, which are not scored")
    owner = owner.clone()
    owner[~known] = torch.arange(count, device=owner.device).repeat_interleave(each - counts)
    return owner.argsort(stable=True).view(count, each)
