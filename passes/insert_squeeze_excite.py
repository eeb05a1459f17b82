"""`insert-squeeze-excite`: channels that are gated by what they are on average, at first by 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.attachments import not_gated
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.layers import end_of_unit
from gngraph.rewrite.structure import InsertSqueezeExcite

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class InsertSqueezeExcites(LayerPass):
    """Gate the channels behind layers by what they are on average over the map: squeeze-and-excitation.

    It stands behind the norm and the non-linearity of a layer. The gate is twice a sigmoid of a layer that starts at zero, hence 1.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        reduction: channels for each of the hidden layer.
    """

    name: ClassVar[str] = "insert-squeeze-excite"
    effect: ClassVar[Effect] = "preserves"
    reduction: int = 4

    def __post_init__(self) -> None:
        require_positive(self.name, "reduction", self.reduction)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why the channels behind a layer cannot be gated."""
        return not_gated(graph, spaces, end_of_unit(graph, place))

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[InsertSqueezeExcite]:
        """A gate behind each of the layers, once."""
        ends = dict.fromkeys(end_of_unit(graph, name) for name in chosen)
        return [InsertSqueezeExcite(at, max(1, int(graph.nodes[at].shape[1]) // self.reduction)) for at in ends]
