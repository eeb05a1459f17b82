"""`new-channels`: wider, with exactly the same function, by channels that nothing listens to yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces
from gngraph.errors import PassError
from gngraph.ir import Graph
from gngraph.passes.channel_choice import matching_spaces, require_positive
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel
from gngraph.scoring.gauss_newton import GaussNewton

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class NewChannels(Pass):
    """Add channels with zero out-weights.

    The proposer says with which in-weights: "random" ones, of the spread of the layer's own, or those of the channels that
    the "gauss-newton" analysis would gain most by, with their BatchNorm statistics, which needs a problem. The out-weights
    that the analysis found are left out, for with them the function changes: selections of the analysis (`select`, the
    growth loop) apply them. Where a norm counts the channels, as those of a transformer's stream, its weight makes up for the new
    ones, but for the rounding of that weight.

    Attributes:
        space: pattern of space names.
        count: new channels of each space.
        proposer: "random" or "gauss-newton".
        seed: of the random in-weights.
    """

    name: ClassVar[str] = "new-channels"
    effect: ClassVar[Effect] = "preserves"
    space: str = "*"
    count: int = 1
    proposer: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self.name, "count", self.count)
        if self.proposer not in IN_WEIGHTS:
            raise PassError(
                f"option 'proposer' of pass '{self.name}' is '{self.proposer}'; choose one of {', '.join(IN_WEIGHTS)}"
            )

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Add channels; see the class.

        Raises:
            PassError: the analysis proposes fewer channels of a space, or there is no problem to analyse.
        """
        spaces = analyses.get(ChannelSpaces, graph)
        propose = IN_WEIGHTS[self.proposer]
        morphisms = tuple(
            morphism
            for space in matching_spaces(self.name, spaces, self.space)
            for morphism in propose(self, graph, space, analyses)
        )
        generator = torch.Generator().manual_seed(self.seed)
        return PassResult.of(morph(graph, spaces, morphisms, generator), morphisms)


def _random(entry: NewChannels, graph: Graph, space: ChannelSpace, analyses: AnalysisManager) -> list[NewChannel]:
    return [NewChannel(space.name)] * entry.count


def _gauss_newton(entry: NewChannels, graph: Graph, space: ChannelSpace, analyses: AnalysisManager) -> list[NewChannel]:
    scores = analyses.get(GaussNewton(new=max(entry.count, GaussNewton.new), kinds=("new",)), graph)
    best = sorted(scores.candidates, key=lambda candidate: -candidate.gain)
    found = [c.morphism for c in best if isinstance(c.morphism, NewChannel) and c.morphism.space == space.name]
    if len(found) < entry.count:
        raise PassError(
            f"pass '{entry.name}' found '{len(found)}' of '{entry.count}' new channels for space '{space.name}'; lower "
            f"count, narrow the space pattern, or use proposer=random ({'; '.join(scores.notes) or 'no more are needed'})"
        )
    return [NewChannel(morphism.space, morphism.rows) for morphism in found[: entry.count]]


IN_WEIGHTS: Mapping[str, Callable[[NewChannels, Graph, ChannelSpace, AnalysisManager], list[NewChannel]]] = {
    "random": _random,
    "gauss-newton": _gauss_newton,
}
"""Where in-weights come from, by name."""
