"""`LayerPass`: what passes that change what single layers are have in common, which is how layers are named and refused."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.rewrite.graph_pass import Pass, PassResult
from gngraph.rewrite.layers import called, layers_of
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.structure import StructureMorphism

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@dataclass(frozen=True)
class LayerPass(Pass):
    """A pass that changes every layer that matches a pattern and can change.

    Attributes:
        at: pattern of the names of layers, or of their nodes.
    """

    at: str | None = None

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Change the layers; see the class."""
        spaces = analyses.get(ChannelSpaces, graph)
        morphisms = tuple(self.morphisms(graph, analyses, self._chosen(graph, spaces)))
        return PassResult.of(morph(graph, spaces, morphisms), morphisms)

    def places(self, graph: Graph) -> Sequence[str]:
        """Nodes that the pass may change, whether they can change or not."""
        return layers_of(graph)

    @abstractmethod
    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why one of the places cannot change, or None.

        Args:
            graph: before the rewrite.
            spaces: of `graph`.
            place: one of `places(graph)`.
        """

    @abstractmethod
    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[StructureMorphism]:
        """What happens to the places that were chosen, in their order.

        Args:
            graph: before the rewrite.
            analyses: what analyses of `graph` come from.
            chosen: places that can change.

        Raises:
            PassError: something that it takes is not there, as data.
        """

    def _chosen(self, graph: Graph, spaces: ChannelSpaces) -> list[str]:
        reasons = {place: self.reason(graph, spaces, place) for place in self.places(graph)}
        names = {place: called(graph, place) for place in reasons}
        if not reasons:
            raise PassError(f"pass '{self.name}' finds nothing in '{graph.name}' that it could change")
        fitting = [names[place] for place, reason in reasons.items() if reason is None]
        if self.at is None:
            example = f"{self.name}{{at={fitting[0] if fitting else '*'}}}"
            raise PassError(
                f"pass '{self.name}' does not say which layer changes: name it, such as {example}; '*' names all"
            )
        matching = [place for place in reasons if fnmatchcase(place, self.at) or fnmatchcase(names[place], self.at)]
        if not matching:
            known = fitting or list(names.values())
            raise PassError(f"pass '{self.name}' found no layer that matches '{self.at}'{choices(self.at, known)}")
        chosen = [place for place in matching if reasons[place] is None]
        if not chosen:
            told = "; ".join(f"'{names[place]}' because {reasons[place]}" for place in matching[:3])
            more = f"; and {len(matching) - 3} more" if len(matching) > 3 else ""
            raise PassError(f"pass '{self.name}' changes none of the layers that match '{self.at}': {told}{more}")
        return chosen
