"""`widen-kernel`: convolutions that see further, with exactly the same function."""

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

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class WidenKernel(LayerPass):
    """Give convolutions a larger kernel: zeros around the one that they have, and padding that keeps the size.

    Attributes:
        at: pattern of the names of layers, or of their nodes; all that match and can change do, and "*" is all.
        kernel: extent along every spatial axis; odd where it was odd, even where it was even.
    """

    name: ClassVar[str] = "widen-kernel"
    effect: ClassVar[Effect] = "preserves"
    kernel: int = 5

    def __post_init__(self) -> None:
        require_positive(self.name, "kernel", self.kernel)

    def reason(self, graph: Graph, spaces: ChannelSpaces, place: str) -> str | None:
        """Why a layer cannot have the kernel."""
        before = kernel_of(graph, graph.nodes[place])
        if any(size > self.kernel for size in before):
            return f"its kernel of {' x '.join(map(str, before))} is larger; use narrow-kernel"
        return not_resized(graph, place, (self.kernel,) * len(before))

    def morphisms(self, graph: Graph, analyses: AnalysisManager, chosen: list[str]) -> Sequence[ResizeKernel]:
        """Kernels with zeros around them."""
        return [ResizeKernel(name, (self.kernel,) * len(kernel_of(graph, graph.nodes[name]))) for name in chosen]
