"""`remove-skip`: no skip connection; whatever read the sum reads the branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.attachments import skips_of
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.structure import RemoveSkip

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class RemoveSkips(LayerPass):
    """Remove skip connections: whatever read the sum of a branch and what passes it by reads the branch.

    The function stays where the connection gives zero. What it connected has channel spaces of its own afterwards.

    Attributes:
        at: pattern of the names of the sums; all that match and can go do, and "*" is all.
    """

    name: ClassVar[str] = "remove-skip"
    effect: ClassVar[Effect] = "changes"

    def places(self, graph: Graph) -> Sequence[str]:
        """Sums in which skip connections end."""
        return list(skips_of(graph))

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """None: all of them can go."""
        return None

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[RemoveSkip]:
        """The connections go."""
        return [RemoveSkip(name) for name in chosen]
