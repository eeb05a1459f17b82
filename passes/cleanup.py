"""`cleanup`: what computes nothing goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gngraph.ir import Graph
from gngraph.ops import draft_of
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class Cleanup(Pass):
    """Drop identity nodes, and constants that no node reads. Parameters and buffers stay: they are in the state_dict."""

    name: ClassVar[str] = "cleanup"
    effect: ClassVar[Effect] = "preserves"

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Clean up; the same graph when there is nothing to drop."""
        identities = [node for node in graph.nodes.values() if node.op == "identity"]
        unread = [name for name, p in graph.params.items() if p.kind == "constant" and not graph.readers(name)]
        if not identities and not unread:
            return PassResult(graph)
        draft = draft_of(graph)
        for node in reversed(identities):
            draft.replace_uses(node.name, node.inputs[0])
            draft.remove(node.name)
        for name in unread:
            draft.remove_param(name)
        return PassResult(draft.commit())
