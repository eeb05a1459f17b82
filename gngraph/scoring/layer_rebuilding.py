"""What readers rebuild the channels of a removed layer from: the nearest linear function of the channels before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.data.inputs import SampleInputs
from gngraph.ir import Graph
from gngraph.rewrite.folding import fold_target
from gngraph.rewrite.layer_removal import RemovableLayer, reading, reading_without
from gngraph.rewrite.morphism import RemoveLayer
from gngraph.scoring.collect import entries
from gngraph.scoring.damping import damped
from gngraph.scoring.sites import Band, reads_by_space

RIDGE = 1e-4
"""Added to the diagonal of the least-squares problems, as a share of its mean."""


@torch.no_grad()
def rebuilt_removal(graph: Graph, analyses: AnalysisManager, layer: RemovableLayer) -> RemoveLayer:
    """The removal of a layer whose readers rebuild its channels by least squares on the learn split.

    Each reader has its own combination, of what it would read in the layer's place; a constant is added where the reader can keep
    one. Cost: two forward passes over the learn split; none for a residual block, whose readers keep their channels.

    Args:
        graph: the network with the layer.
        analyses: whose problem has the samples.
        layer: one of the removable layers of `graph`.

    Raises:
        PassError: there is no problem to learn from.
    """
    if not layer.reads:
        return RemoveLayer(layer.value)
    problem, spaces = analyses.problem, analyses.get(ChannelSpaces, graph)
    sites = {site.slot: site for site in reads_by_space(graph, spaces)[layer.space]}
    bands = [sites[slot].bands[0] for slot in layer.reads]
    width = spaces[layer.source_space].size
    fits = [
        _Fit(band, width, fold_target(graph, slot.node) is not None)
        for band, slot in zip(bands, layer.reads, strict=True)
    ]
    with_it, without, runner = reading(graph, layer), reading_without(graph, spaces, layer), problem.runner

    def measured(x: SampleInputs, y: Any) -> list[tuple[list[torch.Tensor], int]]:
        values = zip(fits, runner.outputs(with_it, x), runner.outputs(without, x), strict=True)
        return [fit.moments(asked, given) for fit, asked, given in values]

    for moments in runner.over(problem.splits.learn, graph, measured):
        for fit, own in zip(fits, moments, strict=True):
            fit.add(*own)
    weights, means = {}, {}
    for slot, fit in zip(layer.reads, fits, strict=True):
        weights[slot.param], means[slot.node] = fit.solve()
    return RemoveLayer(layer.value, weights, means)


class _Fit:
    """The combination of P channels nearest to C others of as many entries, from their moments, in double precision.

    Args:
        band: where the C channels lie in what a reader reads; the P start at the same place.
        width: P.
        constant: whether a constant may be added.
    """

    def __init__(self, band: Band, width: int, constant: bool) -> None:
        self.asked, self.given = band, replace(band, size=width)
        self.constant = constant
        self.count = 0
        self.sums: list[torch.Tensor] = []

    def moments(self, asked: torch.Tensor, given: torch.Tensor) -> tuple[list[torch.Tensor], int]:
        """Sums over a batch of what is read with the layer and without it, on the CPU, and of how much."""
        y, x = (entries(v, band, 1).double() for v, band in ((asked, self.asked), (given, self.given)))
        own = [x.sum((0, 3)), y.sum((0, 3)), torch.einsum("ncip,ndip->cd", x, x), torch.einsum("ncip,ndip->cd", x, y)]
        return [total.cpu() for total in own], x.shape[0] * x.shape[3]

    def add(self, own: list[torch.Tensor], count: int) -> None:
        """Add those of a batch."""
        self.sums = [a + b for a, b in zip(self.sums, own, strict=True)] if self.sums else own
        self.count += count

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The combination [C, P], and the constant of every entry [C, inner], 0 where none is allowed."""
        x, y, square, cross = (total / max(self.count, 1) for total in self.sums)
        x, y = x * self.constant, y * self.constant
        square, cross = square - x @ x.T, cross - x @ y.T
        combination = torch.linalg.solve(damped(square, RIDGE), cross).T
        return combination.float().cpu(), (y - combination @ x).float().cpu()
