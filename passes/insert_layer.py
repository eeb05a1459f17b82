"""`insert-layer`: deeper, with exactly the same function."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import cut_points
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.insertion import BLOCKS, kinds_at
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import InsertLayer

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class InsertLayers(Pass):
    """Insert a layer that starts as the identity, or a residual block that starts at zero, at cut points.

    A cut point is a value that everything which reaches the output has passed, so branches of residual blocks have none.
    A plain layer brings a ReLU along, and so fits only where values cannot be negative (behind a ReLU, say).

    Attributes:
        at: pattern of the names of nodes, or of the modules that they call.
        block: "layer" or "residual".
        count: at how many of the cut points, spread evenly from input to output; none: at all of them.
        seed: of the random first weights of residual blocks.
    """

    name: ClassVar[str] = "insert-layer"
    effect: ClassVar[Effect] = "preserves"
    at: str = "*"
    block: str = "residual"
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self.name, "count", self.count)
        if self.block not in BLOCKS:
            raise PassError(
                f"option 'block' of pass '{self.name}' is '{self.block}'; choose one of {', '.join(BLOCKS)}"
            )

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Insert; see the class."""
        spaces = analyses.get(ChannelSpaces, graph)
        morphisms = tuple(InsertLayer(value, self.block) for value in self._chosen(graph, spaces))
        generator = torch.Generator().manual_seed(self.seed)
        return PassResult.of(morph(graph, spaces, morphisms, generator), morphisms)

    def _chosen(self, graph: Graph, spaces: ChannelSpaces) -> list[str]:
        points = {point.value: point for point in cut_points(graph, spaces)}
        names = {value: graph.nodes[value].module or value for value in points}
        matching = [v for v in points if fnmatchcase(v, self.at) or fnmatchcase(names[v], self.at)]
        if not matching:
            raise PassError(
                f"pass '{self.name}' found no cut point that matches '{self.at}'{choices(self.at, names.values())}"
            )
        fitting = [value for value in matching if self.block in kinds_at(points[value])]
        if not fitting:
            raise PassError(
                f"pass '{self.name}' would change the function by a {self.block} behind '{names[matching[0]]}', whose values "
                f"may be negative, for its ReLU cuts them off; use block=residual"
            )
        count = len(fitting) if self.count is None else self.count
        if count > len(fitting):
            raise PassError(
                f"pass '{self.name}' would take '{count}' cut points, but only '{len(fitting)}' fit and match '{self.at}'; "
                f"lower count, or widen the pattern"
            )
        return [fitting[(2 * i + 1) * len(fitting) // (2 * count)] for i in range(count)]
