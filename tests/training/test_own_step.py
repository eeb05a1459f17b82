"""Training steps and schedules of the user's own: what they are given, what they replace, and how they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph.api import grow
from gngraph.calling import CallError, called
from gngraph.errors import GnGraphError, OptionError
from gngraph.importing.from_torch import from_torch
from gngraph.options import GrowOptions, RunOptions, TrainOptions
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import problem, seed_graph

SEEN: list[tuple[int, str]] = []


def plain(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss that digits have anyway."""
    x, y = batch
    SEEN.append((len(x), str(x.dtype)))
    return nn.functional.cross_entropy(model(x), y)


def smoothed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that is no loss of the problem."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.3)


def absolute(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of a regression, in the units of its targets."""
    SEEN.append((len(batch[0]), f"{float(batch[1].mean()):.0f}"))
    loss: Tensor = (model(batch[0]) - batch[1]).abs().mean()
    return loss


def of_samples(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def nothing(model: nn.Module, batch: Any) -> None:
    model(batch[0])


def constant(model: nn.Module, batch: Any) -> Tensor:
    return torch.zeros(())


def failing(model: nn.Module, batch: Any) -> Tensor:
    raise KeyError("image")


def of_three(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)


def halving(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def plateau(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


def test_a_step_with_the_loss_of_the_problem_trains_as_gngraph_does() -> None:
    graph, task = seed_graph(), problem()
    SEEN.clear()
    own = Trainer(task, TrainOptions.of(train_step=plain, batch_size=32, clip=1.0)).train(graph, Stretch(2, "cosine"))
    assert {size for size, _ in SEEN} == {32, len(task.train) % 32} and SEEN[0][1] == "torch.float32"
    usual = Trainer(task, TrainOptions(batch_size=32, clip=1.0)).train(graph, Stretch(2, "cosine"))
    for name, parameter in usual.graph.params.items():
        torch.testing.assert_close(own.graph.params[name].data, parameter.data, rtol=1e-3, atol=1e-4)
    assert own.epochs[-1].loss == pytest.approx(usual.epochs[-1].loss, rel=1e-3) and own.epochs[-1].accuracy is None


def test_a_run_trains_by_it_everywhere_and_says_what_else_goes_by_the_loss(tmp_path: Path) -> None:
    train = TrainOptions.of(train_step=smoothed, scheduler=one_cycle, batch_size=32)
    assert train.as_dict()["train_step"] == "tests.training.test_own_step:smoothed"
    options = GrowOptions(max_params=3000, rounds=1, epochs=2, final_epochs=3, train=train)
    result = grow(seed_graph(), problem(), options, out=tmp_path / "run")
    assert "training minimises what 'tests.training.test_own_step:smoothed' returns" in result.history[0]["notes"][0]
    rates = [epoch["lr"] for epoch in result.history[-1]["epochs"]]
    assert rates[0] > rates[-1] and all(epoch["accuracy"] is None for epoch in result.history[-1]["epochs"])
    assert result.history[-1]["accuracy"] > 0.3
    assert 'train_step = "tests.training.test_own_step:smoothed"' in (tmp_path / "run" / "config.toml").read_text()


def test_a_regression_by_a_step_of_ones_own_stays_in_the_units_of_its_targets() -> None:
    x = torch.randn(200, 4)
    task = Problem((x, 1000 + 10 * x.sum(1, keepdim=True)), "mse", device="cpu")
    SEEN.clear()
    Trainer(task, TrainOptions.of(train_step=absolute, lr=0.1)).train(from_torch(nn.Linear(4, 1), x[:2]), Stretch(1))
    assert {round(float(mean), -2) for _, mean in SEEN} == {1000.0}


def test_a_scheduler_is_stepped_after_every_step_from_the_full_rate() -> None:
    task = problem()
    trained = Trainer(task, TrainOptions.of(scheduler=halving, lr=0.1, batch_size=64)).train(seed_graph(), Stretch(1))
    steps = -(-len(task.train) // 64)
    assert trained.epochs[0].lr == pytest.approx(0.1 * 0.5 ** (steps - 1))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"train_step": of_samples},
            r"returned a tensor of shape \(\d+,\), but must return the mean loss of the batch",
        ),
        ({"train_step": nothing}, "returned a 'NoneType', but must return"),
        ({"train_step": constant}, r"returned a tensor of shape \(\) without a gradient"),
        ({"train_step": failing}, r"failed on a batch of \d+: KeyError: 'image'"),
        (
            {"train_step": of_three},
            r"is called as train_step\(model, batch\), which it does not take: missing a required",
        ),
        ({"train_step": "tests.training.test_own_step:absent"}, "could not be found: AttributeError"),
        (
            {"scheduler": plateau},
            "is a 'ReduceLROnPlateau', but must be a torch.optim.lr_scheduler.LRScheduler whose step",
        ),
        ({"scheduler": of_three}, "could not be made: TypeError"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(given: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(GnGraphError, match=text):
        grow(seed_graph(), problem(), max_params=3000, train=given, out=tmp_path / "run")
    assert not (tmp_path / "run" / "seed.gng").exists()


def test_a_function_is_its_name() -> None:
    with pytest.raises(OptionError, match=r"must be pkg\.module:function, or a function at the top of a module"):
        TrainOptions.of(train_step=lambda model, batch: model(batch[0]).sum())
    assert TrainOptions.of(optimizer=torch.optim.RAdam, lr=0.1).optimizer == "torch.optim.radam:RAdam"
    with pytest.raises(OptionError, match="leave out the warm-up"):
        TrainOptions.of(scheduler=halving, warmup=1.0)
    with pytest.raises(OptionError, match="cannot fall over the whole run"):
        RunOptions(final="continue", train=TrainOptions.of(scheduler=halving))
    with pytest.raises(CallError, match="ModuleNotFoundError"):
        called("nowhere:function")
