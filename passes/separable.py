"""`separable`: convolutions as a depthwise and a pointwise one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.factorisation import not_factorised
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.structure import Factorise
from gngraph.scoring.factors import separable
from gngraph.scoring.layer_moments import patch_moments

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class Separable(LayerPass):
    """Write convolutions as two: a depthwise one of the same kernel, and one of 1 x 1.

    With data the two change what the convolution gives least, in the mean square over the learn split; without, all that it may
    read counts alike. Few convolutions are near a separable one: train afterwards.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
    """

    name: ClassVar[str] = "separable"
    effect: ClassVar[Effect] = "changes"

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer cannot be separable."""
        return not_factorised(graph, place, "separable")

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[Factorise]:
        """The nearest separable convolutions."""
        found = []
        for name in chosen:
            read = patch_moments(graph, analyses, name) if analyses.has_problem else None
            found.append(separable(graph, name, read))
        return found
