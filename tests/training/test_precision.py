"""Training in bf16 and fp16: layers compute in it, while weights, gradients, statistics and the loss stay in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph.api import grow
from gngraph.data.dataset import ArrayDataset
from gngraph.options import TrainOptions
from gngraph.options.training import TrainPrecision
from gngraph.running.problem import Problem
from gngraph.training.objective import precision_of
from gngraph.training.progress import Progress, Watch
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import digits, dropping, problem, seed_graph

SEEN = list[torch.dtype]()


def seen(model: nn.Module, batch: Any) -> Tensor:
    outputs = model(batch[0])
    SEEN.append(outputs.dtype)
    return nn.functional.cross_entropy(outputs, batch[1])


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
    ids=["auto", "float32", "bf16", "fp16"],
)
def test_layers_compute_in_it_also_within_a_step_of_ones_own(precision: TrainPrecision, dtype: torch.dtype) -> None:
    SEEN.clear()
    options = TrainOptions.of(train_step=seen, precision=precision, batch_size=64)
    trained = Trainer(problem(), options).train(seed_graph(), Stretch(1))
    assert {*SEEN} == {dtype}
    assert {p.data.dtype for p in trained.graph.params.values()} == {torch.float32}


@pytest.mark.parametrize("low", ["bf16", "fp16"])
def test_it_trains_as_float32_does_to_its_rounding(low: TrainPrecision) -> None:
    found = {
        precision: Trainer(problem(), TrainOptions.of(precision=precision, batch_size=32)).train(
            seed_graph(), Stretch(3)
        )
        for precision in ("float32", low)
    }
    losses = {precision: [epoch.loss for epoch in trained.epochs] for precision, trained in found.items()}
    assert losses[low] == pytest.approx(losses["float32"], rel=0.02)
    assert losses[low] != losses["float32"]


def test_fp16_leaves_out_steps_whose_gradients_overflow_and_lowers_the_scale() -> None:
    options, kept = TrainOptions.of(precision="fp16", batch_size=240, clip=1.0, lr=0.01), list[Progress]()
    huge = replace(digits(), train=with_samples(digits().train, 3e3))
    graph = seed_graph()
    Trainer(Problem(huge, device="cpu"), options).train(graph, Stretch(1), watch=Watch(lambda ended: True, kept.append))
    first = kept[0]
    assert float(first.scaling["scale"]) == 2.0**15
    assert all(
        torch.equal(p.data, graph.params[n].data) for n, p in first.graph.params.items() if p.kind == "parameter"
    )


def with_samples(part: Any, factor: float) -> ArrayDataset:
    return ArrayDataset(part.raw.float() * factor, part.labels, part.preprocess)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_computes_in_bf16_trains_in_it_unless_told_otherwise() -> None:
    here = Problem(digits(), device="cuda")
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    assert precision_of(TrainOptions(), here) == ("bf16" if able else "float32")
    assert precision_of(TrainOptions(precision="float32"), here) == "float32"
    assert precision_of(TrainOptions.of(train_step=seen), here) == "float32"


def test_a_run_in_bf16_repeats_to_the_bit() -> None:
    options = {"max_params": 3000, "rounds": 1, "epochs": 1, "final_epochs": 1, "depth": "keep"}
    results = [grow(dropping(), problem(), options, train={"precision": "bf16"}) for _ in range(2)]
    a, b = (result.graph.params for result in results)
    assert all(torch.equal(a[name].data, b[name].data) for name in a)
