"""Re-estimated BatchNorm statistics are the averages over the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph import from_torch, to_torch
from gngraph.options import TrainOptions
from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import mean_loss
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import dropping, problem, seed_graph, small_vgg


def test_the_first_layer_gets_the_mean_and_variance_of_its_inputs() -> None:
    graph, task = dropping(), problem(batch_size=240)  # one batch: the average is that batch's own
    measured = reestimate(graph, task)
    x = torch.stack([task.train[i][0] for i in range(len(task.train))]).flatten(1)
    y = x @ graph.params["first.weight"].data.T + graph.params["first.bias"].data
    torch.testing.assert_close(measured.params["norm.running_mean"].data, y.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured.params["norm.running_var"].data, y.var(0), rtol=1e-4, atol=1e-5)


def test_nothing_but_the_statistics_changes_and_the_result_repeats() -> None:
    graph, task = dropping(), problem()
    first, second = reestimate(graph, task), reestimate(graph, task)
    changed = {name for name in graph.params if not torch.equal(graph.params[name].data, first.params[name].data)}
    assert changed == {"norm.running_mean", "norm.running_var"}
    assert all(torch.equal(first.params[name].data, second.params[name].data) for name in changed)


def test_a_network_without_batchnorm_is_returned_as_it_is() -> None:
    graph = seed_graph()
    assert reestimate(graph, problem()) is graph


class Functional(nn.Module):
    """Norms as functions, whose running statistics are buffers of the network; one is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(12, 10)
        for name in ("once", "twice"):
            self.register_buffer(f"{name}_mean", torch.zeros(12))
            self.register_buffer(f"{name}_var", torch.ones(12))

    def normed(self, x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, getattr(self, f"{name}_mean"), getattr(self, f"{name}_var"), training=self.training)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.normed(self.first(x.flatten(1)), "once"))
        x = torch.relu(self.normed(self.second(x), "twice"))
        y: Tensor = self.head(self.normed(x, "twice"))
        return y


class Counted(nn.BatchNorm1d):
    """As timm and torchvision have written it: it counts batches by itself, and has the activation in it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        momentum = 0.0 if self.momentum is None else self.momentum
        normed = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )
        return torch.relu(normed)


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), norm, nn.ReLU(), nn.Linear(12, 10))


MEASURED: dict[str, Callable[[], nn.Module]] = {
    "counts by itself": lambda: normed(Counted(12)),
    "no momentum": lambda: normed(nn.BatchNorm1d(12, momentum=None)),
    "synchronised": lambda: normed(nn.SyncBatchNorm(12)),
    "no scale": lambda: normed(nn.BatchNorm1d(12, affine=False)),
}


@pytest.mark.parametrize("name", MEASURED)
def test_statistics_of_every_sort_are_those_of_the_samples(name: str) -> None:
    torch.manual_seed(0)
    graph, task = from_torch(MEASURED[name](), torch.zeros(2, 1, 8, 8)), problem(batch_size=240)
    measured = reestimate(graph, task)
    assert measured is not graph
    module = to_torch(measured)
    moved = {n: b.clone() for n, b in module.named_buffers() if n.endswith(("mean", "var"))}
    for norm in (part for part in module.modules() if hasattr(part, "momentum")):
        norm.momentum = 1.0  # type: ignore[assignment]
    x = torch.stack([task.train[i][0] for i in range(len(task.train))])
    with torch.no_grad():
        wanted = module(x)
        torch.testing.assert_close(module.train()(x), wanted, atol=0.02, rtol=0.02)  # which has the biased variance
    for n, buffer in module.named_buffers():
        if n in moved:
            torch.testing.assert_close(buffer, moved[n], rtol=1e-4, atol=1e-5)


def test_statistics_in_buffers_of_the_network_are_measured_over_all_calls() -> None:
    torch.manual_seed(0)
    net, task = Functional(), problem(batch_size=240)
    measured = reestimate(from_torch(net, torch.zeros(2, 1, 8, 8)), task)
    x = torch.stack([task.train[i][0] for i in range(len(task.train))]).flatten(1)

    def found(name: str) -> Tensor:
        return measured.params[name].data

    with torch.no_grad():
        first = net.first(x)
        second = net.second(torch.relu(F.batch_norm(first, None, None, training=True)))
        third = torch.relu(F.batch_norm(second, None, None, training=True))
    for name, values in (("once", (first,)), ("twice", (second, third))):
        mean, variance = (
            torch.stack(parts).mean(0) for parts in zip(*((v.mean(0), v.var(0)) for v in values), strict=True)
        )
        torch.testing.assert_close(found(f"{name}_mean"), mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found(f"{name}_var"), variance, rtol=1e-3, atol=1e-4)


class Held(nn.BatchNorm1d):
    """Frozen: it stays in eval mode."""

    def train(self, mode: bool = True) -> Held:
        return super().train(False)


def test_norms_that_are_held_in_eval_mode_keep_their_statistics() -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), Held(12), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 10)
    )
    graph = from_torch(net, torch.zeros(2, 1, 8, 8))
    measured = reestimate(graph, problem())
    changed = {name for name in graph.params if not torch.equal(graph.params[name].data, measured.params[name].data)}
    assert changed == {"4.running_mean", "4.running_var"}


def test_every_sample_counts_the_same_and_a_single_one_at_the_end_is_left_out() -> None:
    graph, whole = dropping(), problem(batch_size=240)
    few = replace(whole, batch_size=100)  # batches of 100, 100 and 40
    torch.testing.assert_close(
        reestimate(graph, few).params["norm.running_mean"].data,
        reestimate(graph, whole).params["norm.running_mean"].data,
        rtol=1e-4,
        atol=1e-5,
    )
    assert reestimate(graph, replace(whole, batch_size=239)).params["norm.running_mean"].data.isfinite().all()


def test_what_training_gives_has_the_statistics_of_its_weights() -> None:
    task = problem()
    trained = Trainer(task, TrainOptions(batch_size=64)).train(small_vgg(), Stretch(1)).graph  # 4 steps
    again = reestimate(trained, task)
    assert all(torch.equal(p.data, again.params[name].data) for name, p in trained.params.items())
    still = Trainer(task, TrainOptions(batch_size=64)).train(small_vgg(), Stretch(0)).graph
    assert mean_loss(trained, task, task.train) < mean_loss(still, task, task.train)
