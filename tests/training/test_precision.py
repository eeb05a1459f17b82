"""Training in bf16: layers compute in it, while weights, gradients, statistics and the loss stay in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph.api import grow
from gngraph.options import TrainOptions
from gngraph.options.training import TrainPrecision
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import dropping, problem, seed_graph

SEEN = list[torch.dtype]()


def seen(model: nn.Module, batch: Any) -> Tensor:
    outputs = model(batch[0])
    SEEN.append(outputs.dtype)
    return nn.functional.cross_entropy(outputs, batch[1])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)], ids=["float32", "bf16"]
)
def test_layers_compute_in_it_also_within_a_step_of_ones_own(precision: TrainPrecision, dtype: torch.dtype) -> None:
    SEEN.clear()
    options = TrainOptions.of(train_step=seen, precision=precision, batch_size=64)
    trained = Trainer(problem(), options).train(seed_graph(), Stretch(1))
    assert {*SEEN} == {dtype}
    assert {p.data.dtype for p in trained.graph.params.values()} == {torch.float32}


def test_bf16_trains_as_float32_does_to_its_rounding() -> None:
    found = {
        precision: Trainer(problem(), TrainOptions.of(precision=precision, batch_size=32)).train(
            seed_graph(), Stretch(3)
        )
        for precision in ("float32", "bf16")
    }
    losses = {precision: [epoch.loss for epoch in trained.epochs] for precision, trained in found.items()}
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bf16"] != losses["float32"]


def test_a_run_in_bf16_repeats_to_the_bit() -> None:
    options = {"max_params": 3000, "rounds": 1, "epochs": 1, "final_epochs": 1, "depth": "keep"}
    results = [grow(dropping(), problem(), options, train={"precision": "bf16"}) for _ in range(2)]
    a, b = (result.graph.params for result in results)
    assert all(torch.equal(a[name].data, b[name].data) for name in a)
