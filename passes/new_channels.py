"""`new-channels`: wider, with exactly the same function, by channels that nothing listens to yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.channel_choice import matching_spaces, require_positive
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.morphism import NewChannel, edits_of
from gngraph.rewrite.surgery import rewrite

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class NewChannels(Pass):
    """Add channels with random in-weights, of the spread of the layer's own, and zero out-weights.

    Attributes:
        space: pattern of space names.
        count: new channels of each space.
        seed: of the random in-weights.
    """

    name: ClassVar[str] = "new-channels"
    effect: ClassVar[Effect] = "preserves"
    space: str = "*"
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self.name, "count", self.count)

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Add channels; see the class."""
        spaces = analyses.get(ChannelSpaces, graph)
        chosen = matching_spaces(self.name, spaces, self.space)
        morphisms = tuple(NewChannel(space.name) for space in chosen for _ in range(self.count))
        generator = torch.Generator().manual_seed(self.seed)
        return PassResult.of(rewrite(graph, spaces, edits_of(graph, spaces, morphisms), generator), morphisms)
