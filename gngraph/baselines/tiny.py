"""TINY.

Verbockhaven, Rudkiewicz, Chevallier, Charpiat, *Growing Tiny Networks: Spotting Expressivity Bottlenecks and Fixing Them
Optimally*, TMLR 2024.
"""

from __future__ import annotations

import torch

from gngraph.baselines.growing_channels import GrowingChannels
from gngraph.ir import Node
from gngraph.scoring.collect import Collected
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.dense_layers import apply_layer, channel_axis, patches_of, rows_of
from gngraph.scoring.sites import ReadSite, SplitSite

PROJECTION = 0.4
"""Share at which TINY settles what the readers' present weights can do."""

SMALLEST = 1e-6
"""Eigenvalues of a second moment below this share of the largest count as 0 in its inverse."""


class Tiny(GrowingChannels):
    """TINY: the channels that best supply the change of the readers' values which their present weights cannot.

    V is what is left of -g when the least-squares change of the reader's weights and bias has done its part. With S the mean of
    h h^T over the samples, of all positions, and U L W^T the singular value decomposition of G S^(-1/2), channel k has the
    in-weights sqrt(L_k) S^(-1/2) W_k and the out-weights sqrt(L_k) U_k; the layer's bias counts as an input that is always 1. The
    least-squares change is settled on samples of its own, where the paper takes the same ones for both.
    """

    share = 0.5

    def __init__(
        self, context: Context, site: SplitSite, reads: tuple[ReadSite, ...], generator: torch.Generator
    ) -> None:
        super().__init__(context, site, reads, generator)
        self.projected = context.settled(PROJECTION)
        self._moments = [_Moments() for _ in reads]
        self._inputs = _Moments()
        self._able: list[tuple[torch.Tensor, torch.Tensor]] = []

    def gather(self, batch: Collected) -> None:
        """Add to the least-squares problems, then to the growth matrix of what they leave."""
        gradients = [batch.gradient[edge] for edge in self.edges()]
        readers = [self.graph.nodes[read.edge.reader] for read in self.reads]
        inputs = [batch.values[reader.inputs[0]] for reader in readers]
        if self._seen - len(batch.losses) < self.projected:
            for reader, weight, x, g, own in zip(readers, self.weights, inputs, gradients, self._moments, strict=True):
                own.add(_with_one(patches_of(reader, weight, x)), -rows_of(reader, g))
        self._inputs.add(self._layer_inputs(batch))
        if self._seen <= self.projected:
            return
        if not self._able:
            solved = [own.cross @ _power(own.second, -1.0) for own in self._moments]
            self._able = [(a[:, :-1].view_as(w), a[:, -1]) for a, w in zip(solved, self.weights, strict=True)]
        wanted = [
            -g - _biased(reader, apply_layer(reader, x, change), shift)
            for reader, x, g, (change, shift) in zip(readers, inputs, gradients, self._able, strict=True)
        ]
        self.add(batch, wanted)

    def directions(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Whitened singular vectors."""
        root = _power(self._inputs.second / self._inputs.samples, -0.5)
        left, values, right = torch.linalg.svd(self.growth() @ root, full_matrices=False)
        size = values[: self.count].sqrt().unsqueeze(1)
        rows, out = size * (right[: self.count] @ root), size * left[:, : self.count].T
        n = self.weight[0].numel()
        bias = rows[:, n] if rows.shape[1] > n else torch.zeros_like(self._bias)
        return self.gathered_in(rows[:, :n]), bias, self.divided(out)

    def _layer_inputs(self, batch: Collected) -> torch.Tensor:
        patches = patches_of(self.layer, self.weight, batch.values[self.layer.inputs[0]])
        return _with_one(patches) if "bias" in self.layer.params else patches


class _Moments:
    """Sums over samples and positions: of x x^T, and of v x^T for what is to be explained by x."""

    def __init__(self) -> None:
        self.second = self.cross = torch.zeros(())
        self.samples = 0

    def add(self, x: torch.Tensor, v: torch.Tensor | None = None) -> None:
        """Add x [N, inputs, positions] and v [N, outputs, positions]."""
        flat = x.movedim(1, 0).flatten(1)
        self.second = self.second.to(flat) + flat @ flat.T
        if v is not None:
            self.cross = self.cross.to(flat) + v.movedim(1, 0).flatten(1) @ flat.T
        self.samples += len(x)


def _with_one(x: torch.Tensor) -> torch.Tensor:
    """`x` [N, inputs, positions] with an input that is always 1 behind the others."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def _biased(layer: Node, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A layer's value with a bias added."""
    return (value.movedim(channel_axis(layer), -1) + bias).movedim(-1, channel_axis(layer))


def _power(matrix: torch.Tensor, power: float) -> torch.Tensor:
    """A negative power of a positive semidefinite matrix; directions without a second moment are left out."""
    values, vectors = torch.linalg.eigh(matrix.double())  # in single precision it may fail where channels are dead
    kept = values > SMALLEST * values[-1]
    raised: torch.Tensor = (vectors * torch.where(kept, values.clamp(min=1e-30) ** power, 0.0)) @ vectors.T
    return raised.to(matrix)
