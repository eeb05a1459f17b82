"""`join-layers`: two convolutions as one, whatever lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.joining import before, not_joined
from gngraph.rewrite.structure import JoinPair
from gngraph.scoring.factors import joined

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class JoinLayers(LayerPass):
    """Write a convolution, and the one before it whose norm and non-linearity it alone reads, as one.

    One of the two is pointwise, so that the kernel is that of the other: a depthwise convolution and the pointwise one are then a
    dense one. Their non-linearity stands behind it, unless one stands there already. It gives most nearly what the
    second gave, by least squares over what the first read, and so takes data.

    Attributes:
        at: pattern of the names of the second layers, or of their nodes; all that match and can be joined are, and "*" is all.
    """

    name: ClassVar[str] = "join-layers"
    effect: ClassVar[Effect] = "changes"

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer and the one before it are not made one."""
        return not_joined(graph, place)

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[JoinPair]:
        """One layer for each pair; of three in a row the first two.

        Raises:
            PassError: there is no data.
        """
        if not analyses.has_problem:
            raise PassError(f"pass '{self.name}' learns its weights from data, but no data was given")
        pairs: list[str] = []
        for name in chosen:
            found = before(graph, name)
            if found is not None and found[0].name not in pairs:
                pairs.append(name)
        return [joined(graph, analyses, name) for name in pairs]
