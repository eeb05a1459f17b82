"""What widths are worth, measured: the loss of a network that has lost a quarter of a space's channels.

What one more channel would be worth cannot be seen from the loss of one that is missed: where every channel carries something,
as in a first layer, each is missed badly, and a network trained with fewer would still lose little. So several are removed
together, those that are missed least, and rebuilt from all that stay, which is what training with fewer would do first.
docs/results.md#widths has how far that agrees with training in many shapes, as `tools/bench_worth.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import PruneChannel
from gngraph.running.evaluation import sample_losses
from gngraph.running.together import Together
from gngraph.scoring.gauss_newton import Candidate, Moments, Scores
from gngraph.scoring.proposers.merges import merged_into_rest
from gngraph.search.widths import POWER

SHARE = 0.25
"""Share of a space's channels that is removed: with an eighth the changes of the loss are lost in their noise."""

MOST = 64
"""Channels that are removed at most, which bounds the memory of the least-squares problems."""

MEMORY = 0.5
"""Weight of the rounds before in what a round believes: one measurement is noisy, and narrow networks say little of wide ones."""


def measured_worths(graph: Graph, analyses: AnalysisManager, scores: Scores) -> dict[str, float]:
    """Worth w of each space whose prunes are among the candidates, where its width n costs a loss of w / n^`POWER`; at least 0.

    The width is in entries that layers write: of heads it is their channels, not their number.

    Samples that choose those channels that are missed least would miss them less than others do. So each half of the judge split
    chooses, and is asked for the loss without what the other half chose.

    Cost: one pass over the learn split, with one sampled curvature factor, and for each space a forward pass over the judge
    split, of what lies behind it; twice that where the halves choose different channels.

    Args:
        graph: the network that was scored, trained.
        analyses: of the run; they have its problem.
        scores: of the network; candidates that are no prunes are passed over.
    """
    problem, judge = analyses.problem, scores.judge
    half, count = len(judge.s) // 2, len(judge.s)
    halves = slice(0, half), slice(half, count)
    spaces = analyses.get(ChannelSpaces, graph)
    chosen = [_least(scores.candidates, _part(judge, rows).changes(), spaces) for rows in halves]
    again = {name: own for name, own in chosen[1].items() if _channels(own) != _channels(chosen[0][name])}
    networks = [*_without(graph, analyses, chosen[0]), *_without(graph, analyses, again)]
    if not networks:
        return {}
    before, *after = sample_losses(Together([graph, *networks], problem.runner.function), problem, problem.splits.judge)
    first = dict(zip(chosen[0], after, strict=False))
    second = first | dict(zip(again, after[len(first) :], strict=True))
    found = {}
    for name, own in chosen[0].items():
        rise = torch.cat([(second[name] - before)[halves[0]], (first[name] - before)[halves[1]]]).mean()
        n, inner = spaces[name].size, spaces[name].inner
        found[name] = max(0.0, float(rise)) * inner**POWER / ((n - len(own)) ** -POWER - n**-POWER)
    return found


def _channels(prunes: Iterable[PruneChannel]) -> set[int]:
    return {prune.channel for prune in prunes}


def _part(moments: Moments, rows: slice) -> Moments:
    return Moments(moments.s[rows], moments.q[:, rows])


def _least(
    candidates: Iterable[Candidate], changes: torch.Tensor, spaces: ChannelSpaces
) -> dict[str, list[PruneChannel]]:
    """Of each space that has prunes, and more than one channel, those by which the loss changes least."""
    prunes: dict[str, list[tuple[float, PruneChannel]]] = {}
    for candidate, change in zip(candidates, changes.tolist(), strict=True):
        if isinstance(candidate.morphism, PruneChannel) and spaces[candidate.morphism.space].size > 1:
            prunes.setdefault(candidate.morphism.space, []).append((change, candidate.morphism))
    least = {}
    for name, own in prunes.items():
        most = min(MOST, max(1, round(SHARE * spaces[name].size)))
        least[name] = [morphism for _, morphism in sorted(own, key=lambda pair: pair[0])[:most]]
    return least


def _without(graph: Graph, analyses: AnalysisManager, removed: Mapping[str, list[PruneChannel]]) -> list[Graph]:
    """For each space the network without some of its channels, rebuilt from all that stay."""
    spaces = analyses.get(ChannelSpaces, graph)
    removals = merged_into_rest(graph, analyses, [prune for own in removed.values() for prune in own])
    return [morph(graph, spaces, [m for m in removals if m.space == name]).graph for name in removed]


class WorthRecord:
    """What widths were measured to be worth in all rounds, later rounds counting for more.

    Args:
        worths: of the rounds so far, by space; changed in place.
    """

    def __init__(self, worths: dict[str, float] | None = None) -> None:
        self._worths = {} if worths is None else worths

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
