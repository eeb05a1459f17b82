"""`merge-channels`: narrower; whatever reads a removed channel rebuilds it from the channels that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.passes.channel_choice import matching_spaces, require_positive, weakest
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.morphism import PruneChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.scoring.proposers.merges import merged_into_rest

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class MergeChannels(Pass):
    """Narrower: what reads a removed channel rebuilds it from the channels that stay.

    The channels are those that prune-channels would remove; what rebuilds them is learned on data under the curvature of the loss.
    Needs data: a problem, which `gngraph apply --data` makes.

    a_c becomes sum_j b_j a_j + m, folded into the weights that read it; b is learned on the learn split, by least squares, for
    each reader on its own. It costs one pass over that split.

    Attributes:
        space: pattern of space names.
        count: channels of each space, those with the smallest out-weight norm.
        channels: the channels by number instead.
    """

    name: ClassVar[str] = "merge-channels"
    effect: ClassVar[Effect] = "masks"
    space: str = "*"
    count: int = 1
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_positive(self.name, "count", self.count)

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Merge; see the class."""
        spaces = analyses.get(ChannelSpaces, graph)
        removals = [
            PruneChannel(space.name, channel)
            for space in matching_spaces(self.name, spaces, self.space)
            for channel in self.channels or weakest(self.name, graph, space, self.count)
        ]
        if not analyses.has_problem:
            raise PassError(
                f"pass '{self.name}' learns from data how channels rebuild each other, but no data was given: name it by "
                f"--data, or pass AnalysisManager(Problem(data)), or remove channels without data by 'prune-channels'"
            )
        morphisms = tuple(merged_into_rest(graph, analyses, removals))
        return PassResult.of(rewrite(graph, spaces, edits_of(graph, spaces, morphisms)), morphisms)
