"""`remove-layer`: shallower; whatever read a layer's result reads what the layer read."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.layer_removal import removable_layers, remove_layer
from gngraph.rewrite.morphism import RemoveLayer
from gngraph.rewrite.surgery import Gather
from gngraph.scoring.layer_rebuilding import rebuilt_removal

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class RemoveLayers(Pass):
    """Shallower: removes layers of chains, and residual blocks.

    A layer can be removed where what goes in and what comes out are passed by everything that reaches the output and differ in
    their channels at most. Whoever reads a residual block reads its stream instead. Whoever reads a layer of a chain rebuilds its
    channels from those before it by least squares, which needs data: a problem, as `merge-channels` does.

    Attributes:
        at: pattern of the names of layers: of the modules in them, or of the nodes that they end at. All that match go, so that
            one must be given: "*" removes every layer that can be.
    """

    name: ClassVar[str] = "remove-layer"
    effect: ClassVar[Effect] = "changes"
    at: str | None = None

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Remove; see the class."""
        spaces = analyses.get(ChannelSpaces, graph)
        layers = {layer.value: layer.names(graph) for layer in removable_layers(graph, spaces)}
        known = [names[0] for names in layers.values()]
        if self.at is None:
            example = f"{self.name}{{at={known[0] if known else '*'}}}"
            raise PassError(
                f"pass '{self.name}' does not say which layer goes: name it, such as {example}; '*' names all"
            )
        matching = [v for v, names in layers.items() if any(fnmatchcase(name, self.at) for name in names)]
        if not matching:
            raise PassError(
                f"pass '{self.name}' found no layer that can be removed and matches '{self.at}'{choices(self.at, known)}"
            )
        removed: list[RemoveLayer] = []
        gathers: dict[str, tuple[Gather, ...]] = {}
        for value in matching:  # one after another, for each changes what the next is rebuilt from
            removed.append(self._learned(graph, analyses, value))
            rewritten = remove_layer(graph, analyses.get(ChannelSpaces, graph), removed[-1])
            graph = rewritten.graph
            gathers |= {name: (*gathers.get(name, ()), *moves) for name, moves in rewritten.gathers.items()}
        return PassResult(graph, tuple(removed), gathers)

    def _learned(self, graph: Graph, analyses: AnalysisManager, value: str) -> RemoveLayer:
        layers = removable_layers(graph, analyses.get(ChannelSpaces, graph))
        layer = next(layer for layer in layers if layer.value == value)
        if layer.reads and not analyses.has_problem:
            raise PassError(
                f"pass '{self.name}' learns from data how the layers behind '{value}' do without it, but no data was given: "
                f"name it by --data, or pass AnalysisManager(Problem(data)); only residual blocks go without"
            )
        return rebuilt_removal(graph, analyses, layer)
