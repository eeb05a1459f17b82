"""`low-rank`: layers as two, with fewer channels between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.factorisation import not_factorised, rank_of
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.structure import Factorise
from gngraph.scoring.factors import low_rank
from gngraph.scoring.layer_moments import output_moments

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class LowRank(LayerPass):
    """Write layers as two: one of the same kernel to `rank` channels, and one of 1 x 1 from them.

    With data the two change what the layer gives least, in the mean square over the learn split: the truncated singular value
    decomposition of its weight in the metric of what it reads. Without, all that it may read counts alike. The rank is a channel
    space afterwards.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        rank: channels between the two; at the rank of the layer itself the function is the same.
    """

    name: ClassVar[str] = "low-rank"
    effect: ClassVar[Effect] = "changes"
    rank: int = 8

    def __post_init__(self) -> None:
        require_positive(self.name, "rank", self.rank)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer cannot have the rank."""
        reason = not_factorised(graph, place, "low-rank")
        if reason is None and self.rank > rank_of(graph, place):
            return f"its rank is at most {rank_of(graph, place)}"
        return reason

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[Factorise]:
        """The nearest layers of that rank."""
        given = output_moments(graph, analyses, chosen) if analyses.has_problem else {}
        return [low_rank(graph, name, self.rank, given.get(name)) for name in chosen]
