"""`move-pool`, `remove-pool`: a pooling elsewhere, or none, and finer maps behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.layers import called, end_of_unit, layers_of
from gngraph.rewrite.pooling import not_moved, not_unpooled, pools_of
from gngraph.rewrite.structure import MovePool, RemovePool

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


@register_pass
@dataclass(frozen=True)
class MovePools(LayerPass):
    """Have poolings within windows stand behind another layer, its norm and non-linearity: what lies between changes its extents.

    Behind an earlier layer they leave less to be computed. Weights stay, and see other maps than they learned on: train afterwards.

    Attributes:
        at: pattern of the names of poolings, or of their nodes; all that match and can move do, and "*" is all.
        to: name of the layer, or of its node.
    """

    name: ClassVar[str] = "move-pool"
    effect: ClassVar[Effect] = "changes"
    to: str = ""

    def places(self, graph: Graph) -> Sequence[str]:
        """The poolings."""
        return pools_of(graph)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a pooling cannot stand behind the layer."""
        return not_moved(graph, place, self._end(graph))

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[MovePool]:
        """The poolings move."""
        return [MovePool(name, self._end(graph)) for name in chosen]

    def _end(self, graph: Graph) -> str:
        known = {name: name for name in layers_of(graph)} | {called(graph, name): name for name in layers_of(graph)}
        if self.to not in known:
            raise PassError(f"pass '{self.name}' finds no layer '{self.to}' to pool behind{choices(self.to, known)}")
        return end_of_unit(graph, known[self.to])
