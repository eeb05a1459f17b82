"""New channels: predictions are exact where the model is, zero out-weights preserve, and bottlenecks are widened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import load_data
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphism import Morphism, NewChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.proposers.new_channels import TRUST_REGION
from gngraph.scoring.selection import select
from tests.scoring.test_exact_predictions import CASES, report_loss, setting
from tests.small_networks import NETWORKS, build

NEW = GaussNewton("exact", kinds=("new",))
PLACES = [name for name in CASES if name not in ("gated", "gate read twice", "grouped reader")]


def grown(graph: Graph, morphisms: list[Morphism]) -> Graph:
    spaces = ChannelSpaces.of(graph)
    return rewrite(graph, spaces, edits_of(graph, spaces, morphisms)).graph


@pytest.mark.parametrize("name", PLACES)
def test_exact_curvature_predicts_new_channels_exactly(name: str) -> None:
    graph, analyses = setting(name)
    scores = analyses.get(NEW, graph)
    base, predicted = report_loss(graph, analyses), scores.report.changes().tolist()
    actual = [report_loss(grown(graph, [c.morphism]), analyses) - base for c in scores.candidates]
    assert max(abs(a) for a in actual) > 5e-5, "nothing happens, so nothing is proved"
    assert max(abs(p - a) for p, a in zip(predicted, actual, strict=True)) < 2e-6
    # out-weights add up at the readers, so that sets are exact too
    together = report_loss(grown(graph, [c.morphism for c in scores.candidates]), analyses) - base
    assert together == pytest.approx(scores.report.change_of(range(len(actual))), rel=1e-4, abs=2e-6)


REFUSED = {
    "shared module": "'twice' (conv2d) mixes its channels, or shares its weight",
    "shared reader": "'shared' (conv2d), which reads it, is grouped or shares its weight",
    "tied weights": "'again' (linear) mixes its channels, or shares its weight",
}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "two outputs"])
def test_to_first_order_predictions_are_exact_in_every_network(name: str) -> None:
    torch.manual_seed(0)
    network, example = build(name)
    network = network.double()
    x = torch.randn(60, *example.shape[1:], dtype=torch.float64)
    graph = from_torch(network, x[:2])
    with torch.no_grad():
        y = network(x)
    problem = Problem((x, y + torch.randn_like(y)), loss="mse", device="cpu", learn=20, judge=20, report=20)
    analyses = AnalysisManager(problem)
    if name in REFUSED:
        with pytest.raises(PassError) as caught:
            analyses.get(GaussNewton(kinds=("new",)), graph)
        assert REFUSED[name] in str(caught.value)
        return
    scores = analyses.get(GaussNewton(kinds=("new",)), graph)
    slopes, step = scores.report.s.double().mean(0).tolist(), 1e-6
    assert any(slopes), "nothing happens, so nothing is proved"
    for candidate, slope in zip(scores.candidates, slopes, strict=True):
        new = candidate.morphism
        assert isinstance(new, NewChannel)
        up, down = (
            NewChannel(new.space, new.rows, {param: sign * step * u for param, u in new.out.items()})
            for sign in (1, -1)
        )
        difference = report_loss(grown(graph, [up]), analyses) - report_loss(grown(graph, [down]), analyses)
        assert difference / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", PLACES)
def test_without_out_weights_the_function_is_preserved(name: str) -> None:
    graph, analyses = setting(name)
    for options in (NEW, GaussNewton("exact", epochs=0, kinds=("new",))):
        morphisms = [c.morphism for c in analyses.get(options, graph).candidates]
        rows = [m.rows for m in morphisms if isinstance(m, NewChannel)]
        silent: list[Morphism] = [NewChannel(m.space, own) for m, own in zip(morphisms, rows, strict=True)]
        assert silent and relative_error(graph, grown(graph, silent)) <= 1e-12
    unlearned = analyses.get(options, graph)
    assert not any(m.out for m in morphisms if isinstance(m, NewChannel))
    assert not unlearned.report.changes().any()


def test_batchnorm_statistics_are_those_of_the_new_channel() -> None:
    graph, analyses = setting("chain")
    x = torch.stack([analyses.problem.samples[i][0] for i in range(72)])
    for candidate in analyses.get(NEW, graph).candidates:
        assert isinstance(candidate.morphism, NewChannel)
        rows = candidate.morphism.rows
        z = nn.functional.conv2d(x, rows["0.weight"], rows["0.bias"], padding=1)
        spread = float(rows["1.running_var"].sqrt())
        assert abs(float(z.mean() - rows["1.running_mean"])) < 0.3 * spread
        assert 0.7 < float(z.std()) / spread < 1.4


def test_steps_are_bounded_by_what_they_add_to_a_reader_with_layers_behind_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 6), nn.ReLU(), nn.Linear(6, 3)
    )  # fmt: skip
    x, y = torch.randn(600, 3, 8, 8), torch.randn(600, 3)
    graph = from_torch(net, x[:2])
    problem = Problem((x, y), loss="mse", device="cpu", learn=200, judge=200, report=200)
    candidates = AnalysisManager(problem).get(GaussNewton(kinds=("new",)), graph).candidates
    learned_from = torch.stack([problem.samples[i][0] for i in problem.splits.learn.indices])

    def read(network: Graph) -> torch.Tensor:
        module, seen = to_torch(network), list[torch.Tensor]()
        module.get_submodule("2").register_forward_hook(lambda _, __, value: seen.append(value))
        with torch.no_grad():
            module(learned_from)
        return seen[0]

    before = read(graph)
    deviation = (before - before.mean((0, 2, 3), keepdim=True)).square().mean().sqrt()
    added = [
        float((read(grown(graph, [c.morphism])) - before).square().mean().sqrt() / deviation)
        for c in candidates
        if c.site == "0"
    ]
    assert 0.5 * TRUST_REGION < max(added) < 1.3 * TRUST_REGION


def bottleneck() -> tuple[Graph, Problem, float]:
    """A linear chain of width 2, the best of that width for a target of rank 4, and the loss of the best of width 3."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 8, generator=generator, dtype=torch.float64) * torch.linspace(0.5, 2.0, 8)
    target = torch.randn(8, 4, generator=generator, dtype=torch.float64) @ torch.randn(
        4, 6, generator=generator, dtype=torch.float64
    )
    y = x @ target + 0.1 * torch.randn(3000, 6, generator=generator, dtype=torch.float64)
    best = torch.linalg.lstsq(x, y).solution  # reduced-rank regression: truncate what it predicts
    directions = torch.linalg.svd(x @ best, full_matrices=False).Vh
    net = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 6, bias=False)).double()
    with torch.no_grad():
        for layer, weight in zip(net, ((best @ directions[:2].T).T, directions[:2].T), strict=True):
            dict(layer.named_parameters())["weight"].copy_(weight)
    three = float((x @ best @ directions[:3].T @ directions[:3] - y).square().mean())
    return from_torch(net, x[:1]), Problem((x, y), loss="mse", device="cpu", learn=1000, judge=1000, report=1000), three


def test_a_linear_bottleneck_gains_by_new_channels_and_by_no_split() -> None:
    graph, problem, three = bottleneck()
    scores = AnalysisManager(problem).get(GaussNewton(kinds=("split", "new")), graph)
    assert {c.morphism.kind for c in scores.candidates} == {"new"}
    assert any("splits gain nothing" in note for note in scores.notes)
    before = mean_loss(graph, problem, problem.splits.report)
    index = max(range(len(scores.candidates)), key=lambda i: scores.candidates[i].gain)
    best = scores.candidates[index]
    after = mean_loss(grown(graph, [best.morphism]), problem, problem.splits.report)
    possible = before - three
    assert best.gain > 8 * scores.judge.errors()[index]
    assert before - after > 0.8 * possible
    assert float(scores.report.changes().min()) == pytest.approx(after - before, rel=0.1)


def test_a_linear_chain_as_wide_as_what_reads_it_is_no_place() -> None:
    graph, analyses = setting("chain")
    scores = analyses.get(NEW, graph)
    assert {c.morphism.space for c in scores.candidates} == {"0"}
    assert any("'3'" in note and "linear chain" in note for note in scores.notes)


@pytest.fixture(scope="module")
def digits() -> tuple[Graph, Problem]:
    """A small convolutional network after a few epochs on digits."""
    torch.manual_seed(0)
    data = load_data("digits")
    problem = Problem(data, device="cpu", learn=500, judge=400, report=400)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )
    x, y = (torch.stack([torch.as_tensor(data.train[k][i]) for k in range(len(data.train))]) for i in (0, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(3):
        for own in torch.split(torch.randperm(len(x)), 64):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net(x[own]), y[own]))
            optimizer.step()
    return from_torch(net.eval(), x[:1]), problem


def scored(digits: tuple[Graph, Problem], *kinds: str, new: int = 8) -> Scores:
    graph, problem = digits
    return AnalysisManager(problem).get(GaussNewton(new=new, kinds=kinds), graph)


def test_predictions_come_true_on_a_trained_network(digits: tuple[Graph, Problem]) -> None:
    graph, problem = digits
    # 16 candidates of much the same gain on 400 samples: one draw tells them apart with a correlation of about .9
    scores = AnalysisManager(problem).get(GaussNewton("mc{draws=4}", new=8, kinds=("new",)), graph)
    base = mean_loss(graph, problem, problem.splits.report)
    predicted = scores.report.changes().numpy()
    actual = np.array(
        [mean_loss(grown(graph, [c.morphism]), problem, problem.splits.report) - base for c in scores.candidates]
    )
    assert len(actual) == 16 and actual.mean() < 0
    assert np.corrcoef(predicted, actual)[0, 1] > 0.95
    assert 0.7 < np.polyfit(predicted, actual, 1)[0] < 1.3


def test_a_selection_of_new_channels_lowers_the_loss_as_predicted(digits: tuple[Graph, Problem]) -> None:
    graph, problem = digits
    scores = scored(digits, "new")
    chosen = select(scores, CostModel(graph, ChannelSpaces.of(graph)), count=4, kinds=("new",))
    assert chosen.chosen
    base = mean_loss(graph, problem, problem.splits.report)
    after = mean_loss(grown(graph, chosen.morphisms(scores)), problem, problem.splits.report)
    assert after < base and after - base == pytest.approx(chosen.predicted_report, rel=0.4)


def test_splits_and_prunes_are_the_same_with_and_without_new_channels(digits: tuple[Graph, Problem]) -> None:
    alone, beside = scored(digits, "split", "prune"), scored(digits, "split", "prune", "new")
    gains = [c.gain for c in beside.candidates if c.morphism.kind != "new"]
    assert gains == pytest.approx([c.gain for c in alone.candidates], abs=1e-7)
    assert all(c.cost.params > 0 for c in beside.candidates if c.morphism.kind == "new")
