"""Worths of widths, measured by removals that are rebuilt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import PruneChannel
from gngraph.running.evaluation import mean_loss, sample_losses
from gngraph.running.problem import Problem
from gngraph.running.together import Together
from gngraph.scoring.gauss_newton import GaussNewton, Moments
from gngraph.scoring.proposers.merges import merged_into_rest
from gngraph.search.situation import unscored
from gngraph.search.widths import POWER
from gngraph.search.worth import SHARE, measured_worths
from tests.problems import problem, small_vgg


def regression() -> tuple[nn.Sequential, Problem]:
    """The targets are what the network gives: all 8 channels of its first layer are needed, and 12 of 16 of its second."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        head = net[4]
        assert isinstance(head, nn.Linear)
        head.weight[:, 12:] *= 0.01
        x = torch.randn(600, 8)
        y = net(x) + 0.01 * torch.randn(600, 3)
    return net, Problem((x, y), "mse", device="cpu", learn=200, judge=200, report=100)


def test_a_width_is_worth_what_its_least_channels_are() -> None:
    net, task = regression()
    graph, analyses = from_torch(net, torch.zeros(2, 8)), AnalysisManager(task)
    scores = analyses.get(GaussNewton(kinds=("prune",)), graph)
    first, second = (space.name for space in analyses.get(ChannelSpaces, graph).free)
    found = measured_worths(graph, analyses, scores)
    assert set(found) == {first, second} and found[first] > 20 * found[second] >= 0
    # no more than what the loss rises by when the same two channels are removed with nothing rebuilt
    least = sorted((c for c in scores.candidates if c.morphism.space == first), key=lambda c: -c.gain)[
        : round(SHARE * 8)
    ]
    bare = morph(graph, analyses.get(ChannelSpaces, graph), [c.morphism for c in least]).graph
    rise = mean_loss(bare, task, task.splits.judge) - mean_loss(graph, task, task.splits.judge)
    assert found[first] * (6**-POWER - 8**-POWER) < rise


def test_what_some_samples_choose_is_measured_on_others() -> None:
    net, task = regression()
    graph, analyses = from_torch(net, torch.zeros(2, 8)), AnalysisManager(task)
    spaces = analyses.get(ChannelSpaces, graph)
    first = next(iter(spaces.free)).name
    scores = analyses.get(GaussNewton(kinds=("prune",)), graph)
    # the first half of the samples misses channels 0 and 1 least, the second half 2 and 3
    s = torch.ones_like(scores.judge.s)
    for half, channels in ((slice(0, 100), (0, 1)), (slice(100, 200), (2, 3))):
        s[half, [i for i, c in enumerate(scores.candidates) if channel_of(c.morphism, first) in channels]] = 0
    found = measured_worths(graph, analyses, replace(scores, judge=Moments(s, torch.zeros_like(scores.judge.q))))
    base, rises = losses(graph, task), []
    for half, channels in ((slice(100, 200), (0, 1)), (slice(0, 100), (2, 3))):
        removals = merged_into_rest(graph, analyses, [PruneChannel(first, n) for n in channels])
        rises.append(float((losses(morph(graph, spaces, removals).graph, task) - base)[half].mean()))
    assert rises[0] != pytest.approx(rises[1], rel=0.05)
    assert found[first] == pytest.approx(sum(rises) / 2 / (6**-POWER - 8**-POWER), rel=1e-4)


def channel_of(morphism: object, space: str) -> int | None:
    return morphism.channel if isinstance(morphism, PruneChannel) and morphism.space == space else None


def losses(graph: Graph, task: Problem) -> torch.Tensor:
    return sample_losses(Together([graph], task.runner.function), task, task.splits.judge)[0]


def test_only_prunes_say_what_widths_are_worth() -> None:
    graph, analyses = small_vgg(), AnalysisManager(problem())
    assert measured_worths(graph, analyses, analyses.get(GaussNewton(kinds=("split",)), graph)) == {}
    assert measured_worths(graph, analyses, unscored()) == {}


def test_a_space_of_one_channel_is_not_measured() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(200, 4)
    task = Problem((x, torch.randint(2, (200,))), device="cpu", learn=60, judge=60, report=60)
    graph, analyses = from_torch(net, torch.zeros(2, 4)), AnalysisManager(task)
    scores = analyses.get(GaussNewton(kinds=("prune",)), graph)
    names = {c.morphism.space for c in scores.candidates if isinstance(c.morphism, PruneChannel)}
    assert set(measured_worths(graph, analyses, scores)) == names - {
        space.name for space in analyses.get(ChannelSpaces, graph).free if space.size == 1
    }
    assert pytest.approx(1) == sum(space.size == 1 for space in analyses.get(ChannelSpaces, graph).free)
