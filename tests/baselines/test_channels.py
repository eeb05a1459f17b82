"""Channels as GradMax and TINY find them: against the published formulas written out, and exact where the model is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.baselines import GradMax, Tiny
from gngraph.baselines.directed_channels import DirectedChannels
from gngraph.curvature import MonteCarlo
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphism import NewChannel
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Collected, Collector
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.proposer import Context
from gngraph.scoring.proposers.channel_finder import propose_channels
from tests.scoring.test_exact_predictions import report_loss, setting
from tests.scoring.test_new_channels import PLACES, grown

KINDS = ("new-random", "new-gradmax", "new-tiny")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLACES)
def test_predictions_are_exact_where_the_model_is(name: str, kind: str) -> None:
    graph, analyses = setting(name)
    scores = analyses.get(GaussNewton("exact", kinds=(kind,)), graph)
    base, predicted = report_loss(graph, analyses), scores.report.changes().tolist()
    actual = [report_loss(grown(graph, [c.morphism]), analyses) - base for c in scores.candidates]
    assert max(abs(p - a) for p, a in zip(predicted, actual, strict=True)) < 2e-6 * max(1.0, *map(abs, actual))
    if name != "depthwise":  # there no step lowers the loss of the few samples, and all stays as it was
        assert max(abs(a) for a in actual) > 1e-6, "nothing happens, so nothing is proved"


@pytest.mark.parametrize("kind", KINDS)
def test_without_learning_the_function_is_preserved(kind: str) -> None:
    graph, analyses = setting("chain")
    scores = analyses.get(GaussNewton("exact", epochs=0, kinds=(kind,)), graph)
    morphisms = [c.morphism for c in scores.candidates]
    assert morphisms and relative_error(graph, grown(graph, morphisms)) <= 1e-12
    assert not scores.report.changes().any()


def gathered(net: nn.Module, x: Tensor, y: Tensor, finder: type[DirectedChannels], count: int) -> DirectedChannels:
    """A finder of the network's first space that has seen all samples in one batch."""
    graph: Graph = from_torch(net, x[:2])
    problem = Problem((x, y), loss="mse", device="cpu")
    context = Context(graph, ChannelSpaces.of(graph), GaussNewton(new=count), torch.Generator(), len(x))
    found = next(iter(propose_channels(context, finder)))
    assert isinstance(found, DirectedChannels)
    collector = Collector(graph, found.edges(), problem.loss_fn)
    batch: Collected = collector.collect(x, y, MonteCarlo(), torch.Generator())
    found.learn(batch)
    return found


def dense_setting() -> tuple[nn.Sequential, Tensor, Tensor, Tensor, Tensor]:
    """A network of two linear layers, samples, targets, what the second reads, and the gradient of the losses there."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x, y = torch.randn(50, 5, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    with torch.no_grad():
        h, out = net[:2](x), net(x)
    return net, x, y, h, 2 * (out - y) / 3  # the loss of a sample is a mean over its outputs


def aligned(found: Tensor, reference: Tensor) -> Tensor:
    """Cosines of the rows of two matrices."""
    return F.cosine_similarity(found.flatten(1), reference.flatten(1))


def test_gradmax_takes_the_singular_vectors_of_the_gradient_of_an_auxiliary_layer() -> None:
    net, x, y, _, g = dense_setting()
    rows, bias, (out,) = gathered(net, x, y, GradMax, 2).directions()
    auxiliary = g.T @ x / len(x)  # gradient of the mean loss by a zero layer from the input to the second layer's value
    left, values, right = torch.linalg.svd(auxiliary)
    out = out.flatten(1)
    signs = aligned(out, left[:, :2].T)
    assert torch.allclose(signs.abs(), torch.ones(2, dtype=torch.float64))
    # the in-weights are a step against the gradient that the out-weights give them
    assert torch.allclose(aligned(rows, -(out @ auxiliary)), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(aligned(rows, -signs.view(-1, 1) * right[:2]), torch.ones(2, dtype=torch.float64))
    assert not bias.any()
    assert torch.allclose(out.norm(dim=1), dict(net.named_parameters())["2.weight"].norm(dim=0).mean().expand(2))
    # and no other pair of orthogonal out-weights of this size has a larger gradient
    best = ((out / out.norm(dim=1, keepdim=True)) @ auxiliary).norm()
    assert torch.allclose(best, values[:2].norm())
    for _ in range(50):
        other = torch.linalg.qr(torch.randn(3, 2, dtype=torch.float64)).Q.T
        assert float((other @ auxiliary).norm()) <= float(best) + 1e-12


def test_gradmax_of_convolutions_is_the_published_one() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 2, 2, bias=False)
    net = nn.Sequential(first, nn.ReLU(), second, nn.Flatten()).double()
    x = torch.randn(12, 2, 6, 6, dtype=torch.float64)
    y = torch.randn(12, 2 * 9, dtype=torch.float64)
    found = gathered(net, x, y, GradMax, 2)
    assert isinstance(found, GradMax)
    # a zero convolution of combined size from input to output; entry (o, q), (i, p) is its gradient at o, i, p + q
    kernel = torch.zeros(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        base = net[:3](x)
    loss = (base + F.conv2d(x, kernel) - y.view_as(base)).flatten(1).square().mean(1).mean()
    (gradient,) = torch.autograd.grad(loss, kernel)
    expected = torch.zeros(2, 2, 2, 2, 3, 3, dtype=torch.float64)  # o, q, i, p
    for a in range(2):
        for b in range(2):
            expected[:, a, b] = gradient[:, :, a : a + 3, b : b + 3]
    assert torch.allclose(found.growth(), -expected.reshape(8, 18), atol=1e-12)
    rows, _, (out,) = found.directions()
    assert rows.shape == (2, 2, 3, 3) and out.shape == (2, 2, 1, 2, 2)
    left, _, right = torch.linalg.svd(expected.reshape(8, 18), full_matrices=False)
    assert torch.allclose(aligned(out, left[:, :2].T).abs(), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(aligned(rows, right[:2]).abs(), torch.ones(2, dtype=torch.float64))


def test_tiny_is_the_published_one() -> None:
    net, x, y, h, g = dense_setting()
    rows, bias, (out,) = gathered(net, x, y, Tiny, 2).directions()
    wanted = -g
    able = torch.linalg.lstsq(_one(h), wanted).solution  # the best change of the second layer's weights and bias
    left_over = wanted - _one(h) @ able
    b = _one(x)
    s, n = b.T @ b / len(x), b.T @ left_over / len(x)
    values, vectors = torch.linalg.eigh(s)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    u, size, v = torch.linalg.svd(root @ n, full_matrices=False)
    alpha, omega = size[:2].sqrt() * (root @ u[:, :2]), size[:2].sqrt() * v[:2].T
    found_alpha, found_omega = torch.cat([rows, bias.unsqueeze(1)], 1), out.flatten(1)
    signs = torch.sign((found_alpha * alpha.T).sum(1, keepdim=True))
    assert torch.allclose(found_alpha * signs, alpha.T) and torch.allclose(found_omega * signs, omega.T)
    assert float(size[1]) > 1e-3


def _one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


@pytest.mark.parametrize(("finder", "share"), [(GradMax, 1.0), (Tiny, 0.5)])
def test_the_step_is_shared_as_published(finder: type[DirectedChannels], share: float) -> None:
    net, x, y, _, _ = dense_setting()
    found = gathered(net, x, y, finder, 2)
    rows, _, (out,) = found.directions()
    grown_by = [m for m, _ in found.morphisms()]
    steps = []
    for channel, morphism in enumerate(grown_by):
        inner = float(morphism.rows["0.weight"].norm() / rows[channel].norm())
        outer = float(morphism.out["2.weight"].norm() / out[channel].norm())
        steps.append((inner, outer))
    assert any(outer > 0 and inner > 0 for inner, outer in steps)
    for inner, outer in steps:
        if share == 1.0:
            assert outer == pytest.approx(1.0)
        elif outer > 0:
            assert inner == pytest.approx(outer)
        else:
            assert inner == pytest.approx(1.0)


def test_norms_pass_a_new_channel_on_in_evaluation_and_in_training() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    net = net.double()
    x, y = torch.randn(40, 2, 6, 6, dtype=torch.float64), torch.randn(40, 8, dtype=torch.float64)
    net(x)
    found = gathered(net.eval(), x, y, Tiny, 1)
    ((morphism, _),) = list(found.morphisms())
    assert isinstance(morphism, NewChannel)
    norm = nn.BatchNorm2d(1).double()
    norm.load_state_dict(
        {role: morphism.rows[f"1.{role}"] for role in ("weight", "bias", "running_mean", "running_var")}, strict=False
    )
    z = F.conv2d(x, morphism.rows["0.weight"])
    assert float(z.detach().abs().max()) > 1e-3
    assert torch.allclose(norm.eval()(z), z, atol=1e-12) and torch.allclose(norm.train()(z), z, atol=1e-12)


def test_they_lower_the_loss_of_unseen_samples() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    net = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    x = torch.randn(1500, 6, dtype=torch.float64)
    with torch.no_grad():
        y = teacher(x)
    problem = Problem((x, y), loss="mse", device="cpu", learn=500, judge=500, report=500)
    analyses, graph = AnalysisManager(problem), from_torch(net, x[:2])
    for kind in KINDS:
        scores = analyses.get(GaussNewton("exact", kinds=(kind,)), graph)
        index = max(range(len(scores.candidates)), key=lambda i: scores.candidates[i].gain)
        best = scores.candidates[index]
        assert best.gain > 5 * scores.judge.errors()[index]
        changed = report_loss(grown(graph, [best.morphism]), analyses) - report_loss(graph, analyses)
        assert changed == pytest.approx(-best.gain, rel=0.5)
