"""What widths are worth, measured: the loss of a network that has lost a quarter of a space's channels.

What one more channel would be worth cannot be seen from the loss of one that is missed: where every channel carries something,
as in a first layer, each is missed badly, and a network trained with fewer would still lose little. So several are removed
together, those that are missed least, and rebuilt from all that stay, which is what training with fewer would do first.
docs/results.md#widths has how far that agrees with training in many shapes, as `tools/bench_worth.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import PruneChannel
from gngraph.running.evaluation import mean_losses
from gngraph.running.together import Together
from gngraph.scoring.gauss_newton import Candidate
from gngraph.scoring.proposers.merges import merged_into_rest
from gngraph.search.widths import POWER

SHARE = 0.25
"""Share of a space's channels that is removed: with an eighth the changes of the loss are lost in their noise."""

MOST = 64
"""Channels that are removed at most, which bounds the memory of the least-squares problems."""

MEMORY = 0.5
"""Weight of the rounds before in what a round believes: one measurement is noisy, and narrow networks say little of wide ones."""


def measured_worths(graph: Graph, analyses: AnalysisManager, candidates: Iterable[Candidate]) -> dict[str, float]:
    """Worth w of each space whose prunes are among the candidates, where its width n costs a loss of w / n^`POWER`; at least 0.

    Cost: one pass over the learn split, with one sampled curvature factor, and for each space a forward pass over the judge
    split, of what lies behind it.

    Args:
        graph: the network that was scored, trained.
        analyses: of the run; they have its problem.
        candidates: prunes, whose gains say which channels are missed least; others are passed over.
    """
    spaces, problem = analyses.get(ChannelSpaces, graph), analyses.problem
    prunes: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if isinstance(candidate.morphism, PruneChannel) and spaces[candidate.morphism.space].size > 1:
            prunes.setdefault(candidate.morphism.space, []).append(candidate)
    least = {
        name: sorted(own, key=lambda c: -c.gain)[: min(MOST, max(1, round(SHARE * spaces[name].size)))]
        for name, own in prunes.items()
    }
    removals = merged_into_rest(graph, analyses, [c.morphism for own in least.values() for c in own])
    without = [morph(graph, spaces, [m for m in removals if m.space == name]).graph for name in least]
    networks = Together([graph, *without], problem.runner.function)
    before, *after = mean_losses(networks, problem, problem.splits.judge) if removals else [0.0]
    found = {}
    for (name, own), loss in zip(least.items(), after, strict=True):
        n = spaces[name].size
        found[name] = max(0.0, loss - before) / ((n - len(own)) ** -POWER - n**-POWER)
    return found


class WorthRecord:
    """What widths were measured to be worth in all rounds, later rounds counting for more."""

    def __init__(self) -> None:
        self._worths: dict[str, float] = {}

    def seen(self, worths: Mapping[str, float]) -> dict[str, float]:
        """The worths of all rounds so far for the spaces of this one, each relative to the mean of its round.

        >>> record = WorthRecord()
        >>> record.seen({"a": 3.0, "b": 1.0})
        {'a': 1.5, 'b': 0.5}
        >>> record.seen({"a": 10.0, "b": 10.0})
        {'a': 1.25, 'b': 0.75}
        """
        mean = fmean(worths.values()) if worths else 0.0
        if mean > 0:
            for space, value in worths.items():
                before = self._worths.get(space, value / mean)
                self._worths[space] = MEMORY * before + (1 - MEMORY) * value / mean
        return {space: self._worths[space] for space in worths if space in self._worths}
