"""Optimisers of the user's own by name, clipped gradients, and batches whose gradients are added up in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gngraph.api import grow
from gngraph.errors import OptionError
from gngraph.options import GrowOptions, TrainOptions
from gngraph.training.gradients import WHOLE
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import problem, seed_graph

CODE = """
import torch
def nadam(parameters, lr):
    return torch.optim.NAdam(parameters, lr=lr)
def lbfgs(parameters, lr):
    return torch.optim.LBFGS(parameters, lr=lr)
def nothing(parameters, lr):
    return None
def failing(parameters, lr):
    raise KeyError("beta")
"""


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownoptimizers.py").write_text(CODE)


def test_an_optimizer_of_ones_own_trains_and_its_state_goes_through_rewrites() -> None:
    train = TrainOptions(optimizer="ownoptimizers:nadam", lr=0.01, batch_size=32)
    result = grow(
        seed_graph(), problem(), GrowOptions(max_params=3000, rounds=1, epochs=3, final_epochs=6, train=train)
    )
    first, last = result.history[0]["epochs"][0]["loss"], result.history[-1]["epochs"][-1]["loss"]
    assert last < 0.8 * first


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lbfgs", "is a 'LBFGS', but must be a torch.optim.Optimizer whose step takes no closure"),
        ("nothing", "is a 'NoneType', but must be"),
        ("failing", "could not be made: KeyError: 'beta'; it is called with a list of parameters and lr=0.01"),
        ("missing", "could not be made: AttributeError"),
    ],
)
def test_one_that_cannot_be_used_is_refused_before_anything_is_written(name: str, text: str, tmp_path: Path) -> None:
    train = TrainOptions(optimizer=f"ownoptimizers:{name}", lr=0.01)
    with pytest.raises(OptionError, match=text):
        grow(seed_graph(), problem(), GrowOptions(max_params=3000, train=train), out=tmp_path / "run")
    assert not (tmp_path / "run" / "seed.gng").exists()


def test_it_needs_a_rate_and_a_name_that_reads_as_one() -> None:
    with pytest.raises(OptionError, match="has no rate of its own here: give the learning rate"):
        TrainOptions(optimizer="ownoptimizers:nadam")
    with pytest.raises(OptionError, match="option 'optimizer' is 'lion'"):
        TrainOptions(optimizer="lion", lr=0.1)


def test_gradients_are_clipped() -> None:
    graph, task = seed_graph(), problem()
    slow = Trainer(task, TrainOptions(lr=0.1, momentum=0.0, weight_decay=0.0, clip=1e-6)).train(graph, Stretch(1)).graph
    moved = sum(float((slow.params[n].data - p.data).square().sum()) for n, p in graph.params.items() if p.trainable)
    assert 0 < moved**0.5 < 1e-6  # at most the rate times the norm a step
    assert moved**0.5 > 0.5e-7


def test_pieces_of_a_batch_make_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, task = seed_graph(), problem()
    whole = Trainer(task, TrainOptions(batch_size=32))
    pieces = Trainer(task, TrainOptions(batch_size=32, accumulate=4))
    assert (whole.piece, pieces.piece) == (32, 8) and WHOLE > 32
    a, b = (trainer.train(graph, Stretch(2)).graph for trainer in (whole, pieces))
    for name, parameter in a.params.items():
        torch.testing.assert_close(b.params[name].data, parameter.data, rtol=1e-3, atol=1e-4)
