"""Passes replayed from a CUDA graph give what passes that run as they come give."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from gngraph.curvature import CrossEntropy
from gngraph.options import TrainOptions
from gngraph.options.training import TrainPrecision
from gngraph.training.gradients import Gradients, _by_capture
from gngraph.training.objective import OfLoss
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import dropping, problem, seed_graph

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Asking(nn.Module):
    """Waits for the device in the middle of its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y * 2 if float(y.sum()) > 0 else y * 3


def gradients_of(module: nn.Module, device: torch.device) -> tuple[Gradients, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return Gradients(module, OfLoss(CrossEntropy()), optimizer, device), optimizer


def test_gradients_are_those_of_the_mean_loss_and_of_this_batch_alone() -> None:
    module = nn.Linear(6, 3)
    gradients, _ = gradients_of(module, torch.device("cpu"))
    for _ in range(2):
        x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
        sums = gradients(x, y)
        outputs = module(x)
        assert torch.equal(sums.loss, nn.functional.cross_entropy(outputs, y, reduction="none").sum())
        assert (int(sums.right), int(sums.answered)) == (int((outputs.argmax(1) == y).sum()), 5)
        (expected,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, y), [module.weight])
        assert module.weight.grad is not None and torch.allclose(module.weight.grad, expected)


@on_a_gpu
@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "float32"), ("adamw", "float32"), ("sgd", "bf16")])
def test_a_captured_step_trains_as_one_that_runs_as_it_comes(
    optimizer: str, precision: TrainPrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, task = seed_graph(width=0.1), replace(problem(), device="cuda")
    trainer = Trainer(task, TrainOptions(optimizer, 1e-3, batch_size=32, precision=precision))  # rounding stays small
    captured = trainer.train(graph, Stretch(3))  # 240 samples: 7 batches of 32, and one of 16
    monkeypatch.setattr(Gradients, "_capture", lambda self, x, y: None)
    plain = trainer.train(graph, Stretch(3))
    for name, p in plain.graph.params.items():
        assert torch.allclose(captured.graph.params[name].data.float(), p.data.float(), rtol=1e-3, atol=1e-3), name
    assert captured.epochs[-1].loss == pytest.approx(plain.epochs[-1].loss, rel=1e-3)
    assert captured.epochs[-1].accuracy == pytest.approx(plain.epochs[-1].accuracy, abs=0.02)


@on_a_gpu
def test_passes_are_captured_and_dropout_differs_from_step_to_step() -> None:
    device = torch.device("cuda")
    module = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 3)).to(device)
    gradients, _ = gradients_of(module, device)
    x, y = torch.randn(8, 6, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    losses = [gradients(x, y).loss.clone() for _ in range(2)]
    assert gradients._captured is not None and not torch.equal(*losses)
    assert int(module.get_buffer("1.num_batches_tracked")) == 2  # warming up leaves no trace
    kept = [p.grad for p in module.parameters()]
    gradients(x[:4], y[:4])  # another shape: as it comes, into the same gradients
    assert all(a is p.grad for a, p in zip(kept, module.parameters(), strict=True))


@on_a_gpu
def test_what_waits_for_the_device_runs_as_it_comes() -> None:
    device = torch.device("cuda")
    module = Asking().to(device)
    gradients, optimizer = gradients_of(module, device)
    x, y = torch.randn(8, 6, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    first = float(gradients(x, y).loss)
    assert float(nn.functional.dropout(x, 0.5).sum()) != float(x.sum())  # random numbers can still be drawn
    for _ in range(20):
        optimizer.step()
        gradients(x, y)
    assert gradients._captured is None and float(gradients(x, y).loss) < first


@on_a_gpu
def test_training_with_dropout_repeats_on_a_gpu() -> None:
    trainer = Trainer(replace(problem(), device="cuda"), TrainOptions(batch_size=32))
    runs = [trainer.train(dropping(), Stretch(2)).epochs[-1].loss for _ in range(2)]
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def raised(*errors: Exception) -> Exception:
    """The last of some errors, each raised while the one before was handled."""
    for before, error in pairwise(errors):
        error.__context__ = before
    return errors[-1]


def test_only_what_capturing_brings_about_is_worked_around() -> None:
    refusal = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    broken = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    assert _by_capture(raised(refusal, broken))
    assert _by_capture(torch.OutOfMemoryError("CUDA out of memory"))
    fault = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    assert not _by_capture(fault)
    assert not _by_capture(raised(fault, broken)), "leaving the capture hid the fault"
