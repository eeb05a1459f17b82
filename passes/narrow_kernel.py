"""`narrow-kernel`: convolutions that see less far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.passes.layer_pass import LayerPass
from gngraph.rewrite.graph_pass import Effect, register_pass
from gngraph.rewrite.kernels import kernel_of, not_resized
from gngraph.rewrite.structure import ResizeKernel
from gngraph.scoring.factors import narrowed
from gngraph.scoring.layer_moments import patch_moments

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class NarrowKernel(LayerPass):
    """Give convolutions a smaller kernel, and padding that keeps the size.

    With data the kernel is the one that changes what the layer gives least, by least squares over what it reads; without data its
    margin is left out.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        kernel: extent along every spatial axis; odd where it was odd, even where it was even.
    """

    name: ClassVar[str] = "narrow-kernel"
    effect: ClassVar[Effect] = "changes"
    kernel: int = 1

    def __post_init__(self) -> None:
        require_positive(self.name, "kernel", self.kernel)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer cannot have the kernel."""
        before = kernel_of(graph, graph.nodes[place])
        if any(size < self.kernel for size in before):
            return f"its kernel of {' x '.join(map(str, before))} is smaller; use widen-kernel"
        return not_resized(graph, place, (self.kernel,) * len(before))

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[ResizeKernel]:
        """The nearest kernels."""
        found = []
        for name in chosen:
            read = patch_moments(graph, analyses, name) if analyses.has_problem else None
            found.append(narrowed(graph, name, (self.kernel,) * len(kernel_of(graph, graph.nodes[name])), read))
        return found
