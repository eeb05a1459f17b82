"""The nearest layers of another form: of a lower rank, separable, of a narrower kernel, or one in the place of two."""

from __future__ import annotations

import torch

from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph, Node
from gngraph.rewrite.joining import joint_convolution
from gngraph.rewrite.structure import Factorise, JoinPair, ResizeKernel
from gngraph.scoring.damping import damped
from gngraph.scoring.layer_moments import LayerMoments, joint_moments

FACTOR_RIDGE = 1e-6
"""Added to the diagonal of second moments, as a share of its mean, before they are solved."""

FACTOR_SWEEPS = 8
"""Times that either of the two factors of a separable layer is solved for with the other at hand."""


def low_rank(
    graph: Graph, name: str, rank: int, given: LayerMoments | None, metric: torch.Tensor | None = None
) -> Factorise:
    """The layer of a rank that changes what a layer gives least, in the mean square over samples and positions.

    It is the truncated singular value decomposition of the weight in the metric of what the layer reads: what it gives is projected
    on its principal directions. With a bias these are taken about the mean, which the bias then keeps.

    Args:
        graph: has the layer.
        name: of its node.
        rank: channels between the two factors.
        given: moments of the layer's channels; None: all that it may read counts alike.
        metric: curvature of the loss along the layer's channels, [channels, channels], in which the change is least; None: in that
            of the channels themselves.
    """
    node = graph.nodes[name]
    weight, bias = _parameters(graph, node)
    matrix = weight.flatten(1)
    moment = matrix @ matrix.T if given is None else given.covariance if bias is not None else given.about_zero()
    root, inverse = _roots(metric, len(matrix))
    _, vectors = torch.linalg.eigh(root @ moment @ root)
    kept = vectors[:, -rank:].flip(-1)
    expand, project = inverse @ kept, kept.T @ root
    if bias is not None and given is not None:
        bias = given.mean + expand @ (project @ (bias - given.mean))
    reduce, expand = _balanced(expand, project @ matrix)
    first, second = reduce.view(rank, *weight.shape[1:]), expand.view(*expand.shape, *[1] * (weight.dim() - 2))
    return Factorise(name, "low-rank", first, second, bias)


def _balanced(expand: torch.Tensor, reduce: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product by factors of equal lengths in every rank; a metric leaves one huge and one tiny, which training breaks."""
    left, values, right = torch.linalg.svd(expand @ reduce, full_matrices=False)
    rank, root = len(reduce), values.clamp(min=0).sqrt()
    return root[:rank, None] * right[:rank], left[:, :rank] * root[:rank]


def separable(graph: Graph, name: str, read: LayerMoments | None) -> Factorise:
    """The depthwise separable convolution that changes what a convolution gives least, in the mean square.

    Both factors are solved for in turns, by least squares, from the nearest one of each channel alone; to a minimum, which need not
    be the least there is.

    Args:
        graph: has the convolution.
        name: of its node, whose outputs see all channels.
        read: moments of what it multiplies by its rows (`patch_moments`); None: all of it counts alike.
    """
    node = graph.nodes[name]
    weight, bias = _parameters(graph, node)
    channels, taps = weight.shape[1], weight[0, 0].numel()
    matrix = weight.flatten(1)
    moment = _moment(read, bias, matrix.shape[1])[0]
    blocks = moment.view(channels, taps, channels, taps).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    own = matrix.view(-1, channels, taps).transpose(0, 1)
    roots = torch.linalg.cholesky(damped(blocks, FACTOR_RIDGE))
    nearest = torch.linalg.svd(own @ roots, full_matrices=False)[2][:, 0]
    depthwise = torch.linalg.solve_triangular(roots, nearest.unsqueeze(1), upper=False, left=False).squeeze(1)
    depthwise = depthwise / depthwise.norm(dim=1, keepdim=True).clamp(min=1e-30)
    pointwise = _pointwise(matrix, moment, depthwise)
    for _ in range(FACTOR_SWEEPS):
        weights = (pointwise.T @ pointwise).repeat_interleave(taps, 0).repeat_interleave(taps, 1)
        asked = torch.einsum("oc,oct->ct", pointwise, (matrix @ moment).view(-1, channels, taps))
        depthwise = torch.linalg.solve(damped(weights * moment, FACTOR_RIDGE), asked.flatten()).view(channels, taps)
        depthwise = depthwise / depthwise.norm(dim=1, keepdim=True).clamp(min=1e-30)
        pointwise = _pointwise(matrix, moment, depthwise)
    if bias is not None and read is not None:
        bias = bias + (matrix - pointwise @ _spread(depthwise)) @ read.mean[0]
    first = depthwise.view(channels, 1, *weight.shape[2:])
    return Factorise(name, "separable", first, pointwise.view(*pointwise.shape, *[1] * (weight.dim() - 2)), bias)


def _spread(depthwise: torch.Tensor) -> torch.Tensor:
    """The matrix of a depthwise convolution, [channels, channels * taps], of its kernels [channels, taps]."""
    spread = depthwise.new_zeros(len(depthwise), *depthwise.shape)
    spread[range(len(depthwise)), range(len(depthwise))] = depthwise
    return spread.flatten(1)


def _pointwise(matrix: torch.Tensor, moment: torch.Tensor, depthwise: torch.Tensor) -> torch.Tensor:
    """The best pointwise weight behind a depthwise one, [outputs, channels]."""
    spread = _spread(depthwise)
    found: torch.Tensor = torch.linalg.solve(
        damped(spread @ moment @ spread.T, FACTOR_RIDGE), spread @ moment @ matrix.T
    )
    return found.T


def narrowed(graph: Graph, name: str, kernel: tuple[int, ...], read: LayerMoments | None) -> ResizeKernel:
    """The convolution with a narrower kernel that changes what one gives least, in the mean square.

    Args:
        graph: has the convolution.
        name: of its node.
        kernel: extent along every spatial axis, as even or odd as before.
        read: moments of what it multiplies by its rows (`patch_moments`); None: all of it counts alike, and what lies outside goes.
    """
    node = graph.nodes[name]
    if read is None:
        return ResizeKernel(name, kernel)
    weight, _ = _parameters(graph, node)
    inside = torch.zeros(weight.shape[2:], dtype=torch.bool)
    sides = zip(weight.shape[2:], kernel, strict=True)
    inside[tuple(slice((old - new) // 2, (old - new) // 2 + new) for old, new in sides)] = True
    kept = inside.flatten().repeat(weight.shape[1]).nonzero().flatten()
    moment = read.about_zero()
    groups = moment.shape[0]
    rows = weight.reshape(groups, -1, moment.shape[1])
    square, cross = moment[:, kept][:, :, kept], moment[:, :, kept]
    found = torch.linalg.solve(damped(square, FACTOR_RIDGE), (rows @ cross).transpose(1, 2)).transpose(1, 2)
    return ResizeKernel(name, kernel, found.reshape(*weight.shape[:2], *kernel))


def joined(graph: Graph, analyses: AnalysisManager, name: str) -> JoinPair:
    """The one convolution in the place of two and of what lies between them that gives most nearly what the second does.

    Nearest in the mean square over samples of the learn split and positions.

    Args:
        graph: has the two.
        analyses: whose problem has the samples.
        name: of the node of the second.

    Raises:
        PassError: there is no problem.
    """
    convolution, shape = joint_convolution(graph, name)
    _, bias = _parameters(graph, graph.nodes[name])
    moments = joint_moments(graph, analyses, convolution, torch.empty(shape), name)
    square = moments.covariance if bias is not None else moments.about_zero()
    read = len(square) - shape[0]
    found = torch.linalg.solve(damped(square[:read, :read], FACTOR_RIDGE), square[:read, read:]).T
    if bias is not None:
        bias = moments.mean[read:] - found @ moments.mean[:read]
    return JoinPair(name, found.reshape(shape), bias)


def _parameters(graph: Graph, node: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a layer, in float64 on the CPU."""
    weight, bias = (
        graph.params[node.params[role]].data.detach().to("cpu", torch.float64) if role in node.params else None
        for role in ("weight", "bias")
    )
    assert weight is not None
    return weight, bias


def _moment(read: LayerMoments | None, bias: torch.Tensor | None, size: int) -> torch.Tensor:
    if read is None:
        return torch.eye(size, dtype=torch.float64).unsqueeze(0)
    return read.covariance if bias is not None else read.about_zero()


def _roots(metric: torch.Tensor | None, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The root of a metric and its inverse."""
    if metric is None:
        eye = torch.eye(size, dtype=torch.float64)
        return eye, eye
    values, vectors = torch.linalg.eigh(damped(metric))
    root = vectors * values.sqrt() @ vectors.T
    return root, vectors / values.sqrt() @ vectors.T
