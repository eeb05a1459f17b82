"""`repeat-blocks`: deeper, by copies of residual blocks on top of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError, choices
from gngraph.ir import Graph
from gngraph.passes.channel_choice import require_positive
from gngraph.rewrite.blocks import repeatable_blocks, runs_of
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.structure import RepeatBlocks

if TYPE_CHECKING:
    from gngraph.analysis.manager import AnalysisManager


@register_pass
@dataclass(frozen=True)
class RepeatedBlocks(Pass):
    """Deeper: puts copies of residual blocks behind the last of those that follow one another.

    Four blocks become eight, the second four of which start as copies of the first four, in their order: a stage of a ResNet, or a
    whole transformer, stacked on top of itself. The function changes; what was trained goes on learning sooner than a deeper
    network would from the start (docs/results.md#language-models). What blocks share with one another, or with others, copies share
    too.

    Attributes:
        at: pattern of the names of blocks: of the modules in them, or of the nodes that they end at; "*" is all.
        times: copies of each.
    """

    name: ClassVar[str] = "repeat-blocks"
    effect: ClassVar[Effect] = "changes"
    at: str | None = None
    times: int = 1

    def __post_init__(self) -> None:
        require_positive(self.name, "times", self.times)

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        """Repeat; see the class."""
        spaces = analyses.get(ChannelSpaces, graph)
        blocks = {block: block.names(graph) for block in repeatable_blocks(graph, spaces)}
        known = [names[0] for names in blocks.values()]
        if not blocks:
            raise PassError(
                f"pass '{self.name}' finds no blocks in '{graph.name}' that it could repeat: a block adds what it computes to "
                f"what it reads"
            )
        if self.at is None:
            raise PassError(
                f"pass '{self.name}' does not say which blocks: name them, such as {self.name}{{at={known[0]}}}; '*' names all"
            )
        matching = [block for block, names in blocks.items() if any(fnmatchcase(name, self.at) for name in names)]
        if not matching:
            raise PassError(f"pass '{self.name}' found no block that matches '{self.at}'{choices(self.at, known)}")
        morphisms = tuple(RepeatBlocks(run[-1].value, run[0].source, self.times) for run in runs_of(matching))
        return PassResult.of(morph(graph, spaces, morphisms), morphisms)
