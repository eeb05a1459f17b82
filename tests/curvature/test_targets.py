"""Targets are read in the forms that people have: [N, 1], int32, one-hot, soft, and with or without axes of length 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.fit import check_fit
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import LOSSES, BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from gngraph.errors import DataError
from gngraph.importing.from_torch import from_torch
from gngraph.options import TrainOptions
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

LABELS = torch.tensor([2, 0, 1, 1])


def forms(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of three classes as people have them."""
    one_hot = nn.functional.one_hot(labels, 3)
    return {
        "int32": labels.int(),
        "uint8": labels.byte(),
        "an axis": labels.unsqueeze(1),
        "an axis, int32": labels.int().unsqueeze(1),
        "one-hot": one_hot,
        "one-hot, bool": one_hot.bool(),
        "shares": one_hot.float(),
    }


FORMS = forms(LABELS)


@pytest.mark.parametrize("form", FORMS)
def test_labels_in_any_form_are_the_same_loss(form: str) -> None:
    torch.manual_seed(0)
    logits, loss = torch.randn(4, 3), CrossEntropy()
    loss.check_targets(logits, FORMS[form])
    torch.testing.assert_close(loss.per_sample(logits, FORMS[form]), loss.per_sample(logits, LABELS))
    torch.testing.assert_close(loss.hessian_factors(logits, FORMS[form]), loss.hessian_factors(logits, LABELS))


def test_soft_shares_are_the_loss_of_torch() -> None:
    torch.manual_seed(0)
    logits, shares = torch.randn(5, 3), torch.rand(5, 3).softmax(1)
    expected = nn.functional.cross_entropy(logits, shares, reduction="none")
    torch.testing.assert_close(CrossEntropy().per_sample(logits, shares), expected)
    with pytest.raises(DataError, match="is none of shares that are 0 or more and sum to 1"):
        CrossEntropy().check_targets(logits, 2 * shares)


@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossEntropy()], ids=lambda loss: loss.name)
def test_axes_of_length_1_never_broadcast(loss: MeanSquaredError | BinaryCrossEntropy) -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(6, 1), (torch.rand(6) > 0.5).float()
    whole = loss.per_sample(outputs, targets.unsqueeze(1))
    assert torch.equal(loss.per_sample(outputs, targets), whole)
    assert torch.equal(loss.per_sample(outputs[:, 0], targets.unsqueeze(1)), whole)
    loss.check_targets(outputs, targets)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_is_trained_scored_and_measured_on_them(form: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 4)
    labels = x[:, :3].argmax(1)
    y = forms(labels)[form]
    problem = Problem((x, y), device="cpu")
    graph = from_torch(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), x[:2])
    check_fit(graph, problem)
    trained = Trainer(problem, TrainOptions(batch_size=16)).train(graph, Stretch(12)).graph
    accuracy = evaluate(trained, problem, problem.test)[1]
    assert accuracy is not None and accuracy > 0.7
    assert AnalysisManager(problem).get(GaussNewton(), trained).candidates


def test_numbers_without_an_axis_are_a_regression_and_yes_or_no() -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 4)
    graph = from_torch(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), x[:2])
    for loss, y in (("mse", 1e4 + 3e3 * x[:, 0]), ("bce-with-logits", (x[:, 0] > 0).int())):
        problem = Problem((x, y), loss=LOSSES[loss], device="cpu")
        check_fit(graph, problem)
        trained = Trainer(problem, TrainOptions(batch_size=16)).train(graph, Stretch(12))
        assert trained.epochs[-1].loss < 0.5 * trained.epochs[0].loss
