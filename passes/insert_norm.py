"""`insert-norm`: a BatchNorm behind layers, whose scale and shift undo it at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.attachments import not_normed
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.structure import InsertNorm
from gngraph.scoring.layer_moments import output_moments

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class InsertNorms(LayerPass):
    """Put a BatchNorm behind layers that have no norm.

    Its statistics are those of the layer over the learn split, and its scale and shift undo them: in eval mode the function is the
    same. In train mode it normalises by the batch, and differs by as much as the batch does from all samples. Needs data: a
    problem, which `gngraph apply --data` makes.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
    """

    name: ClassVar[str] = "insert-norm"
    effect: ClassVar[Effect] = "rounds"

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why no norm can stand behind a layer."""
        return not_normed(graph, spaces, place)

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[InsertNorm]:
        """A norm behind each of the layers."""
        if not analyses.has_problem:
            raise PassError(
                f"pass '{self.name}' takes its statistics from data, but no data was given: name it by --data, or pass "
                f"AnalysisManager(Problem(data))"
            )
        found = output_moments(graph, analyses, chosen)
        return [InsertNorm(name, m.mean, m.covariance.diagonal().clamp(min=0.0)) for name, m in found.items()]
