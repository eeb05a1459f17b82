"""Merges as candidates: predictions are exact where the model is, and what other channels can say is not lost."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphism import MergeChannel, Morphism, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.proposers import merges as merging
from gngraph.scoring.proposers.merges import merged_into_rest
from tests.scoring.test_exact_predictions import CASES, report_loss, setting


def applied(graph: Graph, morphisms: Iterable[Morphism]) -> Graph:
    spaces = ChannelSpaces.of(graph)
    return rewrite(graph, spaces, edits_of(graph, spaces, morphisms)).graph


def scored(graph: Graph, analyses: AnalysisManager) -> Scores:
    return analyses.get(GaussNewton("exact", kinds=("merge", "prune")), graph)


def predicted(scores: Scores, kind: str) -> torch.Tensor:
    """Predicted changes of the report loss, of the candidates of a kind."""
    return scores.report.changes()[[c.morphism.kind == kind for c in scores.candidates]]


def actual(graph: Graph, analyses: AnalysisManager, scores: Scores, kind: str) -> torch.Tensor:
    """Actual changes of the report loss, of the candidates of a kind."""
    base = report_loss(graph, analyses)
    after = [applied(graph, [c.morphism]) for c in scores.candidates if c.morphism.kind == kind]
    return torch.tensor([report_loss(g, analyses) - base for g in after])


@pytest.mark.parametrize("name", list(CASES))
def test_exact_curvature_predicts_merges_exactly(name: str) -> None:
    graph, analyses = setting(name)
    scores = scored(graph, analyses)
    true = actual(graph, analyses, scores, "merge")
    assert float(true.abs().max()) > 1e-4, "nothing happens, so nothing is proved"
    assert float((predicted(scores, "merge") - true).abs().max()) < 2e-6 * max(1.0, float(true.abs().max()))


def repeating() -> nn.Module:
    """Channel 1 of the first layer is a copy of channel 3; channel 2 of the second is channel 4 less twice channel 0."""
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1), nn.Flatten()
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("0"):
                parameter[1] = parameter[3]
            elif name.startswith("2"):
                parameter[2] = parameter[4] - 2 * parameter[0]
    return net


def test_what_others_say_already_merges_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "repeating", repeating)
    graph, analyses = setting("repeating")
    scores = scored(graph, analyses)
    spare = {("0", 1), ("0", 3), ("2", 0), ("2", 2), ("2", 4)}
    for kind in ("merge", "prune"):
        true = actual(graph, analyses, scores, kind)
        found = [(c.morphism.space, c.morphism) for c in scores.candidates if c.morphism.kind == kind]
        for (space, morphism), change in zip(found, true.tolist(), strict=True):
            assert isinstance(morphism, MergeChannel | PruneChannel)
            free = kind == "merge" and (space, morphism.channel) in spare
            assert abs(change) < 1e-5 if free else abs(change) > 1e-4


@cache
def trained() -> tuple[Graph, AnalysisManager]:
    """A small classifier of points in the plane, trained for a second, and its problem."""
    torch.manual_seed(0)
    x = torch.randn(1200, 2)
    y = ((3 * x[:, 0]).sin() + x[:, 1] > 0).long() + (x.norm(dim=1) > 1.2).long()
    net = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    problem = Problem((x, y), device="cpu", learn=400, judge=400, report=400)
    return from_torch(net, x[:2]), AnalysisManager(problem)


def loss_of(graph: Graph) -> float:
    problem = trained()[1].problem
    return mean_loss(graph, problem, problem.splits.report)


def test_merges_of_a_trained_network_lose_less_than_prunes() -> None:
    graph, analyses = trained()
    scores = scored(graph, analyses)
    merges, prunes = (float(predicted(scores, kind).sum()) for kind in ("merge", "prune"))
    assert 0 < merges < 0.5 * prunes
    base = loss_of(graph)
    true = sum(loss_of(applied(graph, [c.morphism])) - base for c in scores.candidates if c.morphism.kind == "merge")
    assert 0.5 * merges < true < 2 * merges


def test_the_metric_of_the_loss_beats_plain_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, analyses = trained()
    own = float(predicted(scored(graph, analyses), "merge").sum())
    monkeypatch.setattr(merging, "PRIOR", 1e9)
    plain = float(predicted(scored(graph, AnalysisManager(analyses.problem)), "merge").sum())
    assert own < 0.95 * plain


def test_candidates_leave_most_of_their_space_free_for_others() -> None:
    graph, analyses = trained()
    merges = [c for c in scored(graph, analyses).candidates if isinstance(c.morphism, MergeChannel)]
    assert len(merges) == 48 and all(c.cost.params < 0 for c in merges)
    for candidate in merges:
        assert isinstance(candidate.morphism, MergeChannel)
        assert len(candidate.morphism.sources) in (6, 0)  # a channel that is never active needs none
        assert candidate.morphism.channel not in candidate.morphism.sources


def test_what_is_removed_together_merges_into_all_that_stays() -> None:
    graph, analyses = trained()
    gone = [PruneChannel("0", c) for c in range(0, 20, 2)] + [PruneChannel("2", c) for c in range(8)]
    others = [SplitChannel("0", 1)]
    morphisms = merged_into_rest(graph, analyses, [*gone, *others])
    assert morphisms[-1] is others[0]
    for prune, merge in zip(gone, morphisms, strict=False):
        assert isinstance(merge, MergeChannel)
        assert (merge.space, merge.channel) == (prune.space, prune.channel)
        rest = set(range(24)) - {p.channel for p in gone if p.space == prune.space}
        assert set(merge.sources) <= rest
    assert max(len(m.sources) for m in morphisms if isinstance(m, MergeChannel)) > merging.MOST_SOURCES
    base = loss_of(graph)
    merged, pruned = (loss_of(applied(graph, m)) - base for m in (morphisms, gone))
    assert merged < 0.2 * pruned


def test_the_rest_may_be_more_than_each_is_rebuilt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "REST", 5)
    graph, analyses = trained()
    merges = merged_into_rest(graph, analyses, [PruneChannel("0", c) for c in range(10)])
    for merge in merges:
        assert isinstance(merge, MergeChannel)
        assert len(merge.sources) == 5 and min(merge.sources) >= 10


def test_rounding_of_a_singular_covariance_never_names_a_channel_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    # of channels that are all but dead the inverse has diagonal entries of both signs
    singular = torch.tensor([[-0.001, 0.1, 0.0], [0.1, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(merging._Read, "covariance", lambda self: singular)
    read = object.__new__(merging._Read)
    read.channels = torch.tensor([0])
    found = read.partial_correlations(torch.tensor([[False, True, False]]))
    assert found[0].topk(1).indices.tolist() == [1] and 0 <= float(found[0, 1]) <= 1


def test_nothing_removed_needs_no_data_and_what_cannot_be_removed_is_refused() -> None:
    graph, analyses = trained()
    split = [SplitChannel("0", 1)]
    assert merged_into_rest(graph, AnalysisManager(), split) == split
    with pytest.raises(PassError, match="no problem was given"):
        merged_into_rest(graph, AnalysisManager(), [PruneChannel("0", 1)])
    with pytest.raises(PassError, match="has 24 channels and no channel 24"):
        merged_into_rest(graph, analyses, [PruneChannel("0", 24)])
    with pytest.raises(PassError, match="all 24 channels"):
        merged_into_rest(graph, analyses, [PruneChannel("0", c) for c in range(24)])
    with pytest.raises(PassError, match="named by two morphisms"):
        merged_into_rest(graph, analyses, [PruneChannel("0", 1), MergeChannel("0", 1)])
