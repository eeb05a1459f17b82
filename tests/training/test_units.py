"""Regressions train at the default rate whatever the units of their targets, and outputs stay in these."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gngraph.importing.from_torch import from_torch
from gngraph.options import GrowOptions, TrainOptions
from gngraph.options.training import OptimizerName
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.running.problem import Problem
from gngraph.training.optimizer_state import OptimizerState
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.training.units import started, units_of


def plain(outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, outputs))


class Maps(nn.Module):
    """A number for each of the positions, without their axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x.unsqueeze(1)))).squeeze(1)  # type: ignore[no-any-return]


class Forecast(Maps):
    """A number for the last of the positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, -1]


class Pooled(Maps):
    """A number for all positions, their mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean(1, keepdim=True)


def samples(targets: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(240, 4)
    return x, targets(x)


def learnable(x: torch.Tensor) -> torch.Tensor:
    return (x[:, :2].sum(1, keepdim=True) + x[:, 2:3].abs()) / 1.6


SIZES = {
    "prices": (plain(), lambda x: 1e4 + 3e3 * learnable(x)),
    "small": (plain(), lambda x: 1e-4 * learnable(x)),
    "far from 0": (plain(), lambda x: 5e4 + learnable(x)),
    "several": (plain(2), lambda x: torch.cat([1e4 + 3e3 * learnable(x), -5e3 + 3e3 * learnable(-x)], 1)),
    "maps": (Maps(), lambda x: 1e4 + 3e3 * x.roll(1, 1)),
    "forecast": (Forecast(), lambda x: 1e4 + 3e3 * x[:, 3:]),
    "pooled": (Pooled(), lambda x: 1e4 + 3e3 * x.mean(1, keepdim=True)),
    "no bias": (nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1, bias=False)), lambda x: 3e3 * learnable(x)),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("size", SIZES)
def test_the_default_rate_trains_targets_of_any_size(size: str, optimizer: OptimizerName) -> None:
    module, targets = SIZES[size]
    x, y = samples(targets)
    task, graph = Problem((x, y), loss="mse", device="cpu"), from_torch(module, x[:2])
    stretch = Stretch(50 if optimizer == "adamw" else 12, "cosine")
    trained = Trainer(task, TrainOptions(optimizer, batch_size=32)).train(graph, stretch)
    variance = float((y - y.mean(0)).square().mean())
    assert trained.epochs[-1].loss < 0.5 * variance  # told in the units of the data
    assert evaluate(trained.graph, task, task.test)[0] < 0.5 * variance  # which the network gives


def test_targets_of_unit_size_are_trained_as_they_are() -> None:
    x, y = samples(learnable)
    task, graph = Problem((x, y - y.mean()), loss="mse", device="cpu"), from_torch(plain(), x[:2])
    units = units_of(graph, task, TrainOptions())
    assert (units.scale, units.text) == (1.0, None)


def test_units_go_there_and_back_and_a_trained_network_stays() -> None:
    x, y = samples(lambda x: 1e4 + 3e3 * learnable(x))
    task, graph = Problem((x, y), loss="mse", device="cpu"), from_torch(plain(), x[:2])
    units = units_of(graph, task, TrainOptions())
    assert units.scale == 2048.0 and units.text is not None and "3" in units.text
    begun = started(graph, units, task)
    assert mean_loss(begun, task, task.train) < 3 * float(y.var()) < mean_loss(graph, task, task.train)
    there = units.own(units.standard(begun))
    assert torch.equal(there.params["2.weight"].data, begun.params["2.weight"].data)
    torch.testing.assert_close(there.params["2.bias"].data, begun.params["2.bias"].data)
    trained = Trainer(task, TrainOptions(batch_size=32)).train(graph, Stretch(6, "cosine")).graph
    assert started(trained, units, task).params["2.weight"].data.equal(trained.params["2.weight"].data)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_state_goes_along_in_the_units_of_the_data(optimizer: OptimizerName) -> None:
    x, y = samples(lambda x: 1e4 + 3e3 * learnable(x))
    task, graph = Problem((x, y), loss="mse", device="cpu"), from_torch(plain(), x[:2])
    trainer = Trainer(task, TrainOptions(optimizer, lr=0.01, batch_size=32))
    whole = trainer.train(graph, Stretch(3))
    first = trainer.train(graph, Stretch(2))
    again = units_of(graph, task, TrainOptions()).state(first.state, standard=True)
    assert isinstance(again, OptimizerState)
    second = trainer.train(first.graph, Stretch(1, first_epoch=2), first.state)
    for name, parameter in whole.graph.params.items():
        torch.testing.assert_close(second.graph.params[name].data, parameter.data, rtol=1e-4, atol=1e-4)


def test_a_run_says_it_and_grows_a_regression_in_other_units() -> None:
    from gngraph.api import grow

    x, y = samples(lambda x: 1e4 + 3e3 * learnable(x))
    options = GrowOptions(max_params=120, rounds=1, epochs=3, final_epochs=4, train=TrainOptions(batch_size=32))
    result = grow(plain(), Problem((x, y), loss="mse", device="cpu"), options)
    assert any("stay in the units of the data" in note for note in result.history[0]["notes"])
    assert result.history[-1]["loss"] < 0.5 * float(y.var())


def test_a_layer_that_is_not_affine_or_shared_is_left_alone_and_told() -> None:
    module = nn.Sequential(plain(), nn.Softplus())
    for targets, told in ((lambda x: 1e4 + 3e3 * learnable(x).abs(), True), (learnable, False)):
        x, y = samples(targets)
        units = units_of(from_torch(module, x[:2]), Problem((x, y), loss="mse", device="cpu"), TrainOptions())
        assert units.weight is None and units.scale == 1 and units.targets(y) is y
        assert (units.text is not None and "(node '_1', softplus, does)" in units.text) == told
