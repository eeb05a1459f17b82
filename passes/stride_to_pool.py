"""`stride-to-pool`: convolutions that look at every position, and poolings that drop some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.pooling import not_pooled_instead
from gngraph.rewrite.structure import StrideToPool

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class StrideToPools(LayerPass):
    """Give convolutions a stride of 1, and a max pooling behind their norm and non-linearity instead: maps stay as coarse.

    Weights stay, and what is behind reads the largest of several values: train afterwards.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
    """

    name: ClassVar[str] = "stride-to-pool"
    effect: ClassVar[Effect] = "changes"

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why no pooling can stand in for a layer's stride."""
        return not_pooled_instead(graph, place)

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[StrideToPool]:
        """A pooling for each of the strides."""
        return [StrideToPool(name) for name in chosen]
