"""`collapse-layers`: two layers with nothing between them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.factorisation import not_collapsed
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.structure import Collapse

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class CollapseLayers(LayerPass):
    """Write a layer, and the one that it alone reads with nothing between them, as one: `low-rank` and `separable` back.

    The second is a linear layer or a 1 x 1 convolution. The function is the same.

    Attributes:
        at: pattern of the names of the second layers, or of their nodes; all that match and can go do, and "*" is all.
    """

    name: ClassVar[str] = "collapse-layers"
    effect: ClassVar[Effect] = "rounds"

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer and the one that it reads are not one."""
        return not_collapsed(graph, place)

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[Collapse]:
        """One layer for each pair; of three in a row the first two."""
        pairs: list[str] = []
        for name in chosen:
            if graph.nodes[name].inputs[0] not in pairs:
                pairs.append(name)
        return [Collapse(name) for name in pairs]
