"""`remove-pool`: no pooling, and finer maps behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.pooling import not_unpooled, pools_of
from gngraph.rewrite.structure import RemovePool

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class RemovePools(LayerPass):
    """Leave poolings within windows out: what is behind them works on finer maps, at more FLOPs.

    Weights stay, and see other maps than they learned on: train afterwards.

    Attributes:
        at: pattern of the names of poolings, or of their nodes; all that match and can go do, and "*" is all.
    """

    name: ClassVar[str] = "remove-pool"
    effect: ClassVar[Effect] = "changes"

    def places(self, graph: Graph) -> Sequence[str]:
        """The poolings."""
        return pools_of(graph)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a pooling cannot go."""
        return not_unpooled(graph, place)

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[RemovePool]:
        """The poolings go."""
        return [RemovePool(name) for name in chosen]
