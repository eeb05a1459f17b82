"""`head-sizes` and `whole-heads`: what a channel of attention is, an entry of every head or a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.importing.heads import with_head_sizes, with_heads
from gngraph.ir import Graph
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class HeadSizes(Pass):
    """Let the size of heads change, and not their number: the same entries of all heads of an attention are a channel.

    What the graph computes stays; the channel spaces of a later pass, or run, are others. Queries, keys and values that one
    reshape takes apart (`view(n, t, 3, heads, size)`) share their size. Where rotary positions turn queries and keys, a channel is
    the pair of entries that is turned.
    """

    name: ClassVar[str] = "head-sizes"
    effect: ClassVar[Effect] = "preserves"

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Hand the channels over to the entries."""
        return PassResult(with_head_sizes(graph))


@register_pass
@dataclass(frozen=True)
class WholeHeads(Pass):
    """Let the number of heads change, and not their size, as in every graph that was imported."""

    name: ClassVar[str] = "whole-heads"
    effect: ClassVar[Effect] = "preserves"

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Hand the channels over to the heads."""
        return PassResult(with_heads(graph))
