"""`insert-skip`, `make-residual`: skip connections around layers, at first of zero, or of what they connect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.attachments import not_skipped
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.layers import called, end_of_unit, layers_of
from gngraph.rewrite.structure import InsertSkip

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class InsertSkips(LayerPass):
    """Add skip connections around layers whose values have the shape of what they read.

    A connection ends behind the norm and the non-linearity of a layer, and scales each channel by a parameter that starts at 0.
    What it connects has one channel space afterwards: it changes its width together.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        source: name of the layer behind which the connections start, or of a node; by default what each layer reads itself.
    """

    name: ClassVar[str] = "insert-skip"
    effect: ClassVar[Effect] = "preserves"
    scale: ClassVar[float] = 0.0
    source: str | None = None

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why no connection can go around a layer."""
        return not_skipped(graph, spaces, end_of_unit(graph, place), self._source(graph, place))

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[InsertSkip]:
        """A connection around each of the layers."""
        return [InsertSkip(end_of_unit(graph, name), self._source(graph, name), self.scale) for name in chosen]

    def _source(self, graph: Graph, place: str) -> str:
        if self.source is None:
            return graph.nodes[place].inputs[0]
        ends = {called(graph, name): end_of_unit(graph, name) for name in layers_of(graph)}
        known = {name: name for name in graph.nodes} | ends
        if self.source not in known:
            raise PassError(f"pass '{self.name}' finds no source '{self.source}'{choices(self.source, known)}")
        return known[self.source]


@register_pass
@dataclass(frozen=True)
class MakeResidual(InsertSkips):
    """Make layers residual: add what they read to what they give, each channel scaled by a parameter that starts at 1.

    A connection that starts at 0, as by insert-skip, keeps the function, but training makes little of it: for a network that is to
    be trained this one is meant (docs/results.md#structure).

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        source: name of the layer behind which the connections start, or of a node; by default what each layer reads itself.
    """

    name: ClassVar[str] = "make-residual"
    effect: ClassVar[Effect] = "changes"
    scale: ClassVar[float] = 1.0
