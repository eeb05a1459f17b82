"""`change-stride`: convolutions that give coarser or finer maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.kernels import kernel_of, not_restrided
from gngraph.rewrite.structure import Restride

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class ChangeStride(LayerPass):
    """Give convolutions another stride: what is behind them works on coarser or finer maps, at fewer or more FLOPs.

    Weights stay, and see other maps than they learned on: train afterwards.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        stride: along every spatial axis.
    """

    name: ClassVar[str] = "change-stride"
    effect: ClassVar[Effect] = "changes"
    stride: int = 2

    def __post_init__(self) -> None:
        require_positive(self.name, "stride", self.stride)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer cannot have the stride."""
        return not_restrided(graph, place, (self.stride,) * len(kernel_of(graph, graph.nodes[place])))

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[Restride]:
        """The strides."""
        return [Restride(name, (self.stride,) * len(kernel_of(graph, graph.nodes[name]))) for name in chosen]
