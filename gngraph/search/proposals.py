"""What a search over structure tries: changes of an architecture, each a list of passes for all layers of a kind.

Short trainings tell whole networks apart far better than networks that differ in one layer, so that a proposal changes all layers
that it is about. What is tried first is what is registered first (docs/results.md#structure).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.analysis.topology import cut_points
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.ops import lookup
from gngraph.passes.change_stride import ChangeStride
from gngraph.passes.insert_norm import InsertNorms
from gngraph.passes.insert_pool import InsertPools
from gngraph.passes.insert_skip import MakeResidual
from gngraph.passes.insert_squeeze_excite import InsertSqueezeExcites
from gngraph.passes.join_layers import JoinLayers
from gngraph.passes.layer_pass import LayerPass
from gngraph.passes.low_rank import LowRank
from gngraph.passes.narrow_kernel import NarrowKernel
from gngraph.passes.remove_pool import MovePools
from gngraph.passes.remove_skip import RemoveSkips
from gngraph.passes.repeat_blocks import RepeatedBlocks
from gngraph.passes.separable import Separable
from gngraph.passes.stride_to_pool import StrideToPools
from gngraph.passes.widen_kernel import WidenKernel
from gngraph.rewrite.blocks import repeatable_blocks
from gngraph.rewrite.factorisation import rank_of
from gngraph.rewrite.graph_pass import Pass
from gngraph.rewrite.joining import before
from gngraph.rewrite.kernels import kernel_of, stride_of
from gngraph.rewrite.layers import called, end_of_unit, layers_of
from gngraph.rewrite.pooling import pools_of

Proposal = Callable[[Graph, AnalysisManager], Sequence[Pass]]
"""The passes that make another architecture of one, run one after another; none where it changes nothing."""

Where = Callable[[Graph, ChannelSpaces, str], LayerPass | None]
"""The pass for a layer, or for another place that the pass names; None: the layer stays as it is."""

_PROPOSALS: dict[str, Proposal] = {}

PROPOSALS: Mapping[str, Proposal] = MappingProxyType(_PROPOSALS)
"""Proposals by name, in the order in which they are tried."""


def register_proposal(name: str, proposal: Proposal) -> None:
    """Have searches over structure try a change.

    Args:
        name: what records call it.
        proposal: the change.

    Raises:
        PassError: another proposal has the name.
    """
    if _PROPOSALS.get(name, proposal) is not proposal:
        raise PassError(f"two proposals of structure are called '{name}'; give yours another name")
    _PROPOSALS[name] = proposal


def for_each(kind: type[LayerPass], where: Where) -> Proposal:
    """The proposal that runs a pass for every layer that it suits, that can change so, and that the user lets change.

    Args:
        kind: of the passes.
        where: the pass for a layer.
    """

    def passes(graph: Graph, analyses: AnalysisManager) -> list[Pass]:
        spaces, found = analyses.get(ChannelSpaces, graph), list[Pass]()
        for place in kind(at="*").places(graph):
            entry = where(graph, spaces, place) if analyses.scope.names(called(graph, place)) else None
            if entry is not None and entry.reason(graph, spaces, place) is None:
                found.append(replace(entry, at=place))
        return found

    return passes


def _around(graph: Graph, spaces: ChannelSpaces, place: str) -> MakeResidual | None:
    """Around a layer that everything passes, which no connection goes past yet."""
    passed = {point.value for point in cut_points(graph, spaces)}
    return MakeResidual() if {graph.nodes[place].inputs[0], end_of_unit(graph, place)} <= passed else None


def _coarser(graph: Graph, spaces: ChannelSpaces, place: str) -> ChangeStride | None:
    """Of a layer that reads the network's input: all that is behind it takes a quarter of the FLOPs, for twice the width."""
    node = graph.nodes[place]
    if not kernel_of(graph, node) or "stride" not in node.attrs or node.inputs[0] not in graph.inputs:
        return None
    return ChangeStride(stride=2 * max(stride_of(graph, node)))


def _early_pool(graph: Graph, analyses: AnalysisManager) -> Sequence[Pass]:
    """Behind the layer that reads the network's input: as `_coarser`, but it still looks at every position.

    A chain that pools down to a point has no room for one pooling more; there the last one moves.
    """
    found = list(for_each(InsertPools, _pooled)(graph, analyses))
    pools = [name for name in pools_of(graph) if analyses.scope.names(called(graph, name))]
    if found or not pools:
        return found
    spaces = analyses.get(ChannelSpaces, graph)
    first = (
        name for name in layers_of(graph) if _pooled(graph, spaces, name) and analyses.scope.names(called(graph, name))
    )
    moves = [MovePools(pools[-1], name) for name in first]
    return [move for move in moves if move.reason(graph, spaces, pools[-1]) is None][:1]


def _pooled(graph: Graph, spaces: ChannelSpaces, place: str) -> InsertPools | None:
    return InsertPools() if graph.nodes[place].inputs[0] in graph.inputs else None


def _inner(graph: Graph, place: str) -> bool:
    """Whether a layer neither reads the network's input, which has few channels, nor gives its output."""
    return graph.nodes[place].inputs[0] not in graph.inputs and place not in graph.outputs


def _bottleneck(graph: Graph, spaces: ChannelSpaces, place: str) -> LowRank | None:
    """Of a convolution that looks at more than one position; widths of the budget come later."""
    wide = _inner(graph, place) and max(kernel_of(graph, graph.nodes[place]), default=1) > 1
    return LowRank(rank=max(1, rank_of(graph, place) // 4)) if wide else None


def _seen(graph: Graph, spaces: ChannelSpaces, place: str) -> NarrowKernel | None:
    """A kernel of 1 where the map has one position, so that a larger one multiplies padding."""
    sizes = graph.nodes[place].shape[2:]
    kernel = kernel_of(graph, graph.nodes[place])
    return NarrowKernel(kernel=1) if sizes and all(size == 1 for size in sizes) and min(kernel, default=1) > 1 else None


def _wider(graph: Graph, spaces: ChannelSpaces, place: str) -> WidenKernel | None:
    """Of a depthwise convolution, whose kernel costs little, over a map that is larger."""
    kernel = kernel_of(graph, graph.nodes[place])
    sizes = graph.nodes[place].shape[2:]
    if lookup(graph.nodes[place].op).is_dense(graph.nodes[place]) or len(set(kernel)) != 1:
        return None
    return WidenKernel(kernel=kernel[0] + 2) if all(int(size) > kernel[0] for size in sizes) else None


def _dense(graph: Graph, spaces: ChannelSpaces, place: str) -> JoinLayers | None:
    """Of a depthwise convolution and the layer behind it."""
    found = before(graph, place)
    return JoinLayers() if found and not lookup(found[0].op).is_dense(found[0]) else None


def _unexpanded(graph: Graph, spaces: ChannelSpaces, place: str) -> JoinLayers | None:
    """Of a pointwise convolution and the one of a kernel behind it, both of which see all channels."""
    found = before(graph, place)
    if found is None or not lookup(found[0].op).is_dense(found[0]):
        return None
    return JoinLayers() if max(kernel_of(graph, graph.nodes[place]), default=1) > 1 else None


def _full(graph: Graph, spaces: ChannelSpaces, place: str) -> WidenKernel | None:
    """Of a pointwise convolution, over a map that is larger than a point."""
    node = graph.nodes[place]
    kernel = kernel_of(graph, node)
    if not _inner(graph, place) or not kernel or max(kernel) > 1 or not lookup(node.op).is_dense(node):
        return None
    return WidenKernel(kernel=3) if all(int(size) > 1 for size in node.shape[2:]) else None


def _split_up(graph: Graph, spaces: ChannelSpaces, place: str) -> Separable | None:
    return Separable() if _inner(graph, place) else None


def _gated(graph: Graph, spaces: ChannelSpaces, place: str) -> InsertSqueezeExcites | None:
    node = graph.nodes[place]
    return InsertSqueezeExcites() if _inner(graph, place) and lookup(node.op).is_dense(node) else None


def _normed(graph: Graph, spaces: ChannelSpaces, place: str) -> InsertNorms | None:
    return InsertNorms() if lookup(graph.nodes[place].op).is_dense(graph.nodes[place]) else None


def _deeper(graph: Graph, analyses: AnalysisManager) -> Sequence[Pass]:
    """All residual blocks twice, where all may change: a seed may have fewer than pay at its budget."""
    blocks = repeatable_blocks(graph, analyses.get(ChannelSpaces, graph))
    free = all(analyses.scope.names(called(graph, name)) for block in blocks for name in block.nodes)
    return [RepeatedBlocks(at="*")] if blocks and free else []


register_proposal("pools", for_each(StrideToPools, lambda graph, spaces, place: StrideToPools()))
register_proposal("early-pool", _early_pool)
register_proposal("coarser", for_each(ChangeStride, _coarser))
register_proposal("dense", for_each(JoinLayers, _dense))
register_proposal("no-expansion", for_each(JoinLayers, _unexpanded))
register_proposal("skips", for_each(MakeResidual, _around))
register_proposal("no-skips", for_each(RemoveSkips, lambda graph, spaces, place: RemoveSkips()))
register_proposal("seen-kernels", for_each(NarrowKernel, _seen))
register_proposal("separable", for_each(Separable, _split_up))
register_proposal("wide-kernels", for_each(WidenKernel, _wider))
register_proposal("full-kernels", for_each(WidenKernel, _full))
register_proposal("low-rank", for_each(LowRank, _bottleneck))
register_proposal("squeeze-excite", for_each(InsertSqueezeExcites, _gated))
register_proposal("norms", for_each(InsertNorms, _normed))
register_proposal("deeper", _deeper)
