"""`insert-pool`: maps that are pooled behind a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.layers import end_of_unit
from gngraph.rewrite.pooling import not_pooled
from gngraph.rewrite.structure import InsertPool

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class InsertPools(LayerPass):
    """Put a max pooling behind layers, their norm and their non-linearity: what is behind works on coarser maps, at fewer FLOPs.

    Weights stay, and see other maps than they learned on: train afterwards.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        size: of the window, and its stride, along every spatial axis.
    """

    name: ClassVar[str] = "insert-pool"
    effect: ClassVar[Effect] = "changes"
    size: int = 2

    def __post_init__(self) -> None:
        require_positive(self.name, "size", self.size)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why no pooling can stand behind a layer."""
        return not_pooled(graph, spaces, end_of_unit(graph, place), self.size)

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[InsertPool]:
        """A pooling behind each of the layers."""
        return [InsertPool(end_of_unit(graph, name), self.size) for name in chosen]
