"""Accuracy counts what the loss counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from gngraph import from_torch
from gngraph.curvature import BinaryCrossEntropy, CrossEntropy, CustomLoss, Heads, LossLike, as_loss
from gngraph.options import TrainOptions
from gngraph.running.evaluation import correct, evaluate
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

NAN = float("nan")


def pixels(loss: Callable[..., Tensor]) -> CustomLoss:
    """A loss of maps as people write it: the mean over all positions."""
    return CustomLoss("pixels", lambda outputs, targets: loss(outputs, targets).flatten(1).mean(1))


def answers(loss: LossLike, outputs: Any, targets: Any) -> list[float]:
    found = correct(as_loss(loss), outputs, targets)
    assert found is not None
    return found.tolist()


LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
LABELS = torch.tensor([0, 0, -100])


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(ignore_index=-100),
        nn.CrossEntropyLoss(reduction="none"),  # which ignores -100 unless another label is named
        nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
        partial(F.cross_entropy, reduction="none"),
        CustomLoss("own", lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none")),
        Heads({0: CrossEntropy(ignore_index=-100), 1: "mse"}),
    ],
)
def test_an_ignored_label_is_neither_right_nor_wrong(loss: LossLike) -> None:
    several = isinstance(loss, Heads)
    outputs: Any = (LOGITS, torch.zeros(3, 1)) if several else LOGITS
    targets: Any = (LABELS, torch.zeros(3, 1)) if several else LABELS
    assert answers(loss, outputs, targets) == pytest.approx([1.0, 0.0, NAN], nan_ok=True)


def test_an_ignored_class_that_the_network_names_does_not_count() -> None:
    ignored = nn.CrossEntropyLoss(reduction="none", ignore_index=0)
    weighed = nn.CrossEntropyLoss(reduction="none", weight=torch.tensor([0.0, 1.0, 1.0]))
    for loss in (ignored, weighed):
        assert answers(loss, LOGITS, torch.tensor([0, 1, 2])) == pytest.approx([NAN, 1.0, 0.0], nan_ok=True)


def test_positions_of_maps_count_as_in_the_loss() -> None:
    outputs = torch.zeros(3, 2, 2, 2)
    outputs[:, 1] = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    labels = torch.tensor([[[1, 0], [0, 0]], [[1, 9], [0, 9]], [[9, 9], [9, 9]]])
    expected = [0.75, 0.5, NAN]
    own = pixels(partial(F.cross_entropy, ignore_index=9, reduction="none"))
    for loss in (CrossEntropy(ignore_index=9), own):
        assert answers(loss, outputs, labels) == pytest.approx(expected, nan_ok=True)


def test_probabilities_of_classes_are_right_where_the_largest_is() -> None:
    soft = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.0, 0.0, 0.0]])
    for loss in (nn.CrossEntropyLoss(reduction="none"), partial(F.cross_entropy, reduction="none")):
        assert answers(loss, LOGITS, soft) == pytest.approx([1.0, 0.0, NAN], nan_ok=True)
    assert correct(as_loss(lambda outputs, targets: (outputs - targets).abs().mean(1)), LOGITS, soft) is None


def test_several_yes_or_no_targets_and_what_has_no_classes() -> None:
    assert answers(BinaryCrossEntropy(), LOGITS, torch.tensor([[1.0, 0, 1], [1, 0, 1], [0, 1, 1]])) == pytest.approx(
        [1.0, 1 / 3, 1.0]
    )
    counts = CustomLoss("counts", lambda outputs, targets: (outputs[:, 0] - targets).abs())
    assert correct(counts, torch.ones(3, 1), torch.tensor([0, 1, 2])) is None  # numbers, of which none is a class


def test_the_accuracy_of_samples_and_of_epochs_leaves_out_what_is_ignored() -> None:
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor([5.0, 0.0]))
    x, y = torch.randn(64, 4), torch.full((64,), 255)
    y[::4], y[::8] = 1, 0
    data = SimpleNamespace(train=TensorDataset(x, y), test=TensorDataset(x, y))
    task = Problem(data, CrossEntropy(ignore_index=255), device="cpu")
    graph = from_torch(net, x[:2])
    assert evaluate(graph, task, task.test)[1] == 0.5
    trained = Trainer(task, TrainOptions(lr=1e-9, batch_size=8)).train(graph, Stretch(1))
    assert trained.epochs[0].accuracy == pytest.approx(0.5, abs=0.1)
    nothing = TensorDataset(x, torch.full((64,), 255))
    assert evaluate(graph, task, nothing) == (0.0, None)
