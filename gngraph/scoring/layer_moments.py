"""What layers read and give over the learn split, in moments: what a smaller layer is to be nearest to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from gngraph.analysis.manager import AnalysisManager
from gngraph.data.inputs import SampleInputs
from gngraph.ir import Graph, Node, Ref
from gngraph.ops import draft_of, lookup
from gngraph.ops.conv import groups_of
from gngraph.ops.rules import spread, window_counts


@dataclass(frozen=True)
class LayerMoments:
    """Mean and covariance of vectors, float64 on the CPU.

    Attributes:
        mean: [..., D].
        covariance: [..., D, D].
    """

    mean: torch.Tensor
    covariance: torch.Tensor

    def about_zero(self) -> torch.Tensor:
        """The second moment about zero, [..., D, D]."""
        return self.covariance + self.mean.unsqueeze(-1) * self.mean.unsqueeze(-2)


class VectorSums:
    """VectorSums of vectors and of their outer products, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.first: torch.Tensor | None = None
        self.second: torch.Tensor | None = None

    def add(self, count: int, first: torch.Tensor, second: torch.Tensor) -> None:
        """Add those of a batch (see `sums`).

        Args:
            count: of the vectors.
            first: their sum, [..., D].
            second: the sum of their outer products, [..., D, D].
        """
        self.count += count
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second

    def moments(self) -> LayerMoments:
        """Mean and covariance."""
        assert self.first is not None and self.second is not None
        mean = self.first / max(self.count, 1)
        return LayerMoments(mean, self.second / max(self.count, 1) - mean.unsqueeze(-1) * mean.unsqueeze(-2))


def sums(vectors: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """How many vectors there are, their sum, and that of their outer products; of [..., D, count], in float64."""
    vectors = vectors.double()
    return vectors.shape[-1], vectors.sum(-1), vectors @ vectors.transpose(-1, -2)


@torch.no_grad()
def output_moments(graph: Graph, analyses: AnalysisManager, layers: Sequence[str]) -> dict[str, LayerMoments]:
    """LayerMoments of the channels that layers give, over samples and positions. Cost: a forward pass over the learn split.

    Args:
        graph: the network.
        analyses: whose problem has the samples.
        layers: names of their nodes.

    Raises:
        PassError: there is no problem.
    """

    def rows(values: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        axes = (lookup(graph.nodes[name].op).channel_axis for name in layers)
        return [value.movedim(axis, 0).flatten(1) for value, axis in zip(values, axes, strict=True)]

    return dict(zip(layers, _measured(graph, analyses, layers, rows), strict=True))


@torch.no_grad()
def patch_moments(graph: Graph, analyses: AnalysisManager, layer: str) -> LayerMoments:
    """LayerMoments of what a layer multiplies by a row of its weight, [groups, D], with D entries of a row.

    Cost: a forward pass over the learn split, and D numbers for each of its positions; D x D for each group.

    Args:
        graph: the network.
        analyses: whose problem has the samples.
        layer: name of a convolution or linear layer.

    Raises:
        PassError: there is no problem.
    """
    node = graph.nodes[layer]
    weight = graph.params[node.params["weight"]].data

    def rows(values: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [patches(node, values[0], weight)]

    (found,) = _measured(graph, analyses, [node.inputs[0]], rows)
    return found


@torch.no_grad()
def joint_moments(
    graph: Graph, analyses: AnalysisManager, convolution: Node, weight: torch.Tensor, layer: str
) -> LayerMoments:
    """LayerMoments of what a convolution would multiply by a row, and of what a layer gives at that position, [D + channels].

    Cost: a forward pass over the learn split, and D numbers for each position, with D entries of a row; (D + channels)^2.

    Args:
        graph: the network.
        analyses: whose problem has the samples.
        convolution: that sees all channels of its input, a value of the network.
        weight: its weight, for the shape.
        layer: name of a layer whose maps have the extents of those that the convolution would give.

    Raises:
        PassError: there is no problem.
    """

    def rows(values: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [torch.cat([patches(convolution, values[0], weight)[0], values[1].movedim(1, 0).flatten(1)])]

    (found,) = _measured(graph, analyses, [convolution.inputs[0], layer], rows)
    return found


def patches(node: Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What a layer multiplies by its rows, [groups, D, samples and positions].

    Args:
        node: a convolution or a linear layer.
        x: what it reads, [N, ...].
        weight: its weight, for the shape.
    """
    rank = weight.dim() - 2
    if not rank:
        return x.flatten(0, -2).T.unsqueeze(0)
    kernel = weight.shape[2:]
    stride, dilation = (spread(node.attrs.get(key, 1), rank) for key in ("stride", "dilation"))
    padding = node.attrs.get("padding", 0)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        sides = [(pad, pad) for pad in spread(0 if padding == "valid" else padding, rank)]
    mode = node.attrs.get("padding_mode", "zeros")
    x = F.pad(x, [pad for side in reversed(sides) for pad in side], mode="constant" if mode == "zeros" else mode)
    sizes = window_counts(x.shape[2:], kernel, stride, dilation, (0,) * rank)
    taps = []
    for offsets in itertools.product(*map(range, kernel)):
        tap = x
        for i, offset in enumerate(offsets):
            start = offset * dilation[i]
            tap = tap[(slice(None),) * (2 + i) + (slice(start, start + stride[i] * (sizes[i] - 1) + 1, stride[i]),)]
        taps.append(tap.flatten(2))
    groups = groups_of(node, tuple(weight.shape))
    stacked = torch.stack(taps, 2)  # [N, C, taps, positions]
    return stacked.reshape(len(x), groups, -1, stacked.shape[3]).permute(1, 2, 0, 3).flatten(2)


def _measured(graph: Graph, analyses: AnalysisManager, values: Sequence[str], rows: Any) -> list[LayerMoments]:
    """LayerMoments of what `rows` makes of some values, over the learn split."""
    problem = analyses.problem
    draft = draft_of(graph)
    draft.set_output(tuple(Ref(name) for name in values))
    draft.remove_unread(name for name in graph.nodes if name not in graph.inputs)
    own, totals = draft.commit(), list[VectorSums]()

    def measured(x: SampleInputs, y: Any) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        found = (sums(vectors) for vectors in rows(problem.runner.outputs(own, x)))
        return [(count, first.cpu(), second.cpu()) for count, first, second in found]

    for batch in problem.runner.over(problem.splits.learn, graph, measured):
        totals = totals or [VectorSums() for _ in batch]
        for total, sum_ in zip(totals, batch, strict=True):
            total.add(*sum_)
    return [total.moments() for total in totals]
