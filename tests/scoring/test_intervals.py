"""Intervals of predicted changes: what the samples leave open, and what the quadratic model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Moments
from gngraph.scoring.second_look import SAMPLES, SecondLook
from tools.measuring import Samples, apply, changes, unanalysed


def drawn(samples: int, seed: int) -> Moments:
    """Effects of two candidates on samples of one distribution; first and second order go together."""
    generator = torch.Generator().manual_seed(seed)
    z, e = torch.randn(samples, 2, generator=generator), torch.randn(2, samples, 2, generator=generator)
    return Moments(z - 0.6 * z.square(), torch.tensor([1.0, 0.4]) * z + 0.7 * e)


SAMPLE_ERRORS: dict[str, tuple[bool, Callable[[Moments], torch.Tensor]]] = {
    "as it is": (True, Moments.errors),
    "a deviation, not that of a mean": (False, lambda m: m.errors() * len(m.s) ** 0.5),
    "of the first order alone": (False, lambda m: Moments(m.s, 0 * m.q).errors()),
    "of both orders as if they were independent": (
        False, lambda m: torch.hypot(Moments(m.s, 0 * m.q).errors(), Moments(0 * m.s, m.q).errors())
    ),
    "of one factor": (False, lambda m: Moments(m.s, m.q[:1]).errors()),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE_ERRORS)
def test_the_error_of_the_samples_is_how_far_estimates_on_other_samples_spread(name: str) -> None:
    right, errors = SAMPLE_ERRORS[name]
    runs = [drawn(100, seed) for seed in range(1500)]
    spread = torch.stack([m.changes() for m in runs]).std(0)
    told = torch.stack([errors(m) for m in runs]).mean(0)
    assert bool((told / spread - 1).abs().max() < 0.07) == right


def test_the_error_of_the_model_is_a_share_of_the_second_order() -> None:
    sure = Moments(torch.tensor([[-3.0, 1.0]] * 4), torch.tensor([[[2.0, 0.0]] * 4, [[2.0, 4.0]] * 4]))
    assert sure.changes().tolist() == [-3.0 + 4.0, 1.0 + 8.0]
    assert sure.second_order().tolist() == [4.0, 8.0] and sure.errors().tolist() == [0.0, 0.0]
    assert sure.total_errors().tolist() == [1.0, 2.0]  # a quarter
    looked = {1: SecondLook(actual=9.0, predicted=9.0, slope=1.0, left=1.0, count=64)}
    assert Moments(sure.s, sure.q, looked).total_errors().tolist() == [1.0, 0.125]  # where it was measured
    moments = drawn(100, 0)
    of_model = (moments.total_errors().square() - moments.errors().square()).sqrt()
    torch.testing.assert_close(of_model, moments.second_order() / 4, rtol=1e-4, atol=0)


def test_candidates_by_the_hundred_are_as_those_by_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    many = Moments(torch.randn(9, 300, generator=generator), torch.randn(2, 9, 300, generator=generator))
    for candidate in (0, 127, 128, 299):
        alone = Moments(many.s[:, [candidate]], many.q[:, :, [candidate]])
        for column in (Moments.changes, Moments.errors, Moments.total_errors):
            torch.testing.assert_close(column(many)[[candidate]], column(alone))
        assert many.change_of([candidate]) == pytest.approx(float(alone.changes()))
    both = Moments(many.s[:, [3, 7]].sum(1, keepdim=True), many.q[:, :, [3, 7]].sum(2, keepdim=True))
    assert many.change_of([3, 7]) == pytest.approx(float(both.changes()))
    assert abs(many.change_of([3, 7]) - float(many.changes()[[3, 7]].sum())) > 0.1  # they share samples, and factors


def learned(seed: int) -> tuple[Graph, Problem]:
    """A narrow perceptron that was taught three classes: the loss of one without a channel is far from quadratic."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(6000, 6)
    y = (x @ torch.randn(6, 3) + torch.sin(2 * x) @ torch.randn(6, 3)).argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for start in range(0, 6000, 200):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(x[start : start + 200]), y[start : start + 200]))
        optimizer.step()
    problem = Problem((x, y), device="cpu", seed=seed, learn=800, judge=1600, report=8, batch_size=400)
    return from_torch(net.eval(), x[:2]), problem


def misses(seed: int, looks: int = 0) -> Iterator[tuple[float, float, float]]:
    """For each prune and merge: distance of the actual change from the predicted one, and what either error allows."""
    graph, problem = learned(seed)
    scores = AnalysisManager(problem).get(GaussNewton(kinds=("prune", "merge"), looks=looks), graph)
    assert len(scores.judge.looked) == len(scores.report.looked) == looks
    judge = scores.judge
    assert [c.error for c in scores.candidates] == pytest.approx(judge.total_errors().tolist())
    others = (apply(graph, [candidate.morphism]) for candidate in scores.candidates)
    unseen = {"unseen": Samples(problem, unanalysed(problem, 3000))}
    columns = zip(judge.changes().tolist(), judge.total_errors().tolist(), judge.errors().tolist(), strict=True)
    for (predicted, total, alone), found in zip(columns, changes(graph, others, unseen), strict=True):
        change = found["unseen"]
        yield abs(change.mean - predicted), *(float(1.96 * np.hypot(e, change.error)) for e in (total, alone))


def test_actual_changes_lie_in_the_interval_only_with_the_error_of_the_model() -> None:
    found = np.array([miss for seed in range(8) for miss in misses(seed)])
    assert len(found) >= 100
    total, alone = (float((found[:, 0] <= found[:, i]).mean()) for i in (1, 2))
    assert total >= 0.88
    assert alone <= total - 0.05  # the samples alone leave out what the model does not see


def test_what_the_model_explains_leaves_no_error_and_what_it_does_not_is_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    judge, report = torch.randn(300, generator=generator), torch.randn(200, generator=generator) + 0.3
    look = SecondLook.of(2 * judge + 0.5, judge)
    assert look.expected(float(report.mean())) == pytest.approx(2 * float(report.mean()) + 0.5, abs=1e-5)
    assert look.error() < look.error(200) < 1e-5
    look = SecondLook.of(torch.full((300,), 0.25), torch.zeros(300))
    assert (look.expected(1.0), look.error(200)) == (0.25, 0.0)


@pytest.mark.parametrize("explained", [0.0, 0.5, 0.95])
def test_intervals_hold_what_they_say_of_the_report_split(explained: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(400):
        model, rest = torch.randn(2, 150, generator=generator) * torch.tensor([[explained], [1 - explained**2]]).sqrt()
        actual = 1.5 * model + rest + 0.1
        look = SecondLook.of(actual[:100], model[:100])
        inside += abs(float(actual[100:].mean()) - look.expected(float(model[100:].mean()))) <= 1.96 * look.error(50)
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize("slope", [-0.5, 0.5, 1.0, 3.0])
def test_intervals_of_what_was_looked_at_hold_what_they_say_of_all_samples(slope: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(400):
        model, rest = torch.randn(2, 200, generator=generator) + 0.2
        look = SecondLook.of((slope * model + 0.5 * rest)[:100], model[:100])
        report = model[100:] + look.expected(float(model[100:].mean())) - model[100:].mean()  # as `looks` adds to s
        moments = Moments(report.unsqueeze(1), torch.zeros(1, 100, 1), {0: look})
        inside += bool(abs(moments.changes() - 0.2 * slope - 0.1) <= 1.96 * moments.total_errors())
    assert 0.92 <= inside / 400 <= (0.98 if abs(slope) >= 1 else 1.0)  # below 1 nothing is narrowed


def test_a_second_look_mends_the_largest_predictions_and_knows_their_error() -> None:
    quadratic, looked = (np.array([m for seed in range(4) for m in misses(seed, looks)]) for looks in (0, 8))
    assert np.sqrt(np.mean(looked[:, 0] ** 2)) < 0.6 * np.sqrt(np.mean(quadratic[:, 0] ** 2))
    assert np.mean(looked[:, 0] <= looked[:, 1]) >= 0.9
    assert looked[:, 1].sum() < 0.8 * quadratic[:, 1].sum()  # narrower intervals, and they hold


def test_a_look_moves_a_prediction_by_the_line_of_actual_on_predicted_changes() -> None:
    graph, problem = learned(0)
    scores = AnalysisManager(problem).get(GaussNewton(kinds=("prune",), looks=2), graph)
    judge = scores.judge
    first = Samples(problem, Subset(problem.splits.judge, range(SAMPLES)))
    for i in judge.looked:
        actual = torch.sub(*first.losses(graph, [apply(graph, [scores.candidates[i].morphism])]).flip(0))
        # what a look adds to s is the same for all samples, and is in no slope
        predicted = judge.s[:, i] + 0.5 * judge.q[:, :, i].square().sum(0)
        slope, _ = np.polyfit(predicted[:SAMPLES], actual, 1)
        moved = float(actual.mean()) + slope * float(predicted.mean() - predicted[:SAMPLES].mean())
        assert float(predicted.mean()) == pytest.approx(moved, abs=1e-5)
        assert abs(slope - 1) > 0.01 and judge.looked[i].error() > 0
    plain = AnalysisManager(problem).get(GaussNewton(kinds=("prune",)), graph)
    assert set(judge.looked) == set(plain.judge.second_order().topk(2).indices.tolist())
    others = [i for i in range(len(scores.candidates)) if i not in judge.looked]
    torch.testing.assert_close(judge.changes()[others], plain.judge.changes()[others])
    with pytest.raises(PassError, match="looks must be at least 0"):
        GaussNewton(looks=-1)


def test_the_only_channel_of_a_space_is_not_proposed_for_removal() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1), nn.Tanh(), nn.Linear(1, 3))
    problem = Problem((torch.randn(120, 6), torch.arange(120) % 3), device="cpu", batch_size=40)
    graph = from_torch(net, torch.zeros(2, 6))
    scores = AnalysisManager(problem).get(GaussNewton(kinds=("prune", "merge"), looks=20), graph)
    assert {candidate.morphism.space for candidate in scores.candidates} == {"0"}
    single = from_torch(nn.Sequential(nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 3)), torch.zeros(2, 6))
    with pytest.raises(PassError, match=r"no place for prune \(spaces of one channel keep it"):
        AnalysisManager(problem).get(GaussNewton(kinds=("prune",)), single)
