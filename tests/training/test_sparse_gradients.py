"""Tables with sparse gradients, and batches that a norm cannot be trained on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.errors import TrainingError
from gngraph.options import TrainOptions
from gngraph.running.batchnorm import reestimate

TOKENS = torch.randint(0, 11, (64, 5), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 3


class Tables(nn.Module):
    """A table, read by itself or in bags."""

    def __init__(self, bag: bool, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table: Any = nn.EmbeddingBag(11, 6, sparse=sparse) if bag else nn.Embedding(11, 6, sparse=sparse)
        self.a, self.h = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        read = self.table(x)
        return self.h(torch.relu(self.a(read if read.dim() == 2 else read.mean(1))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("bag", [True, False])
def test_sparse_tables_train_as_dense_ones_and_stay_sparse(bag: bool, optimizer: str) -> None:
    problem = gngraph.Problem((TOKENS, LABELS), device="cpu")
    train = TrainOptions(optimizer=optimizer)
    found = [
        gngraph.grow(
            Tables(bag, sparse), problem, max_params=300, rounds=1, epochs=1, final_epochs=1, train=train
        ).graph
        for sparse in (True, False)
    ]
    sparse, dense = found
    assert sparse.nodes["table"].attrs["sparse"] is True
    assert all(torch.equal(p.data, dense.params[name].data) for name, p in sparse.params.items())


class Normed(nn.Module):
    """A norm over the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.h = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.n(self.a(x))))  # type: ignore[no-any-return]


def problem(count: int, **options: Any) -> gngraph.Problem:
    generator = torch.Generator().manual_seed(0)
    return gngraph.Problem((torch.randn(count, 5, generator=generator), LABELS[:count]), device="cpu", **options)


def test_a_batch_of_one_is_refused_where_a_norm_needs_two() -> None:
    short: dict[str, Any] = {"max_params": 100, "rounds": 1, "epochs": 1, "final_epochs": 1}
    with pytest.raises(
        TrainingError, match=r"cannot be trained on a batch of 1: .* at least two: raise the batch size"
    ):
        gngraph.grow(Normed(), problem(48), train=TrainOptions(batch_size=1), **short)
    assert gngraph.grow(Normed(), problem(49), train=TrainOptions(batch_size=48), **short).graph.num_params() > 60


def test_statistics_do_not_depend_on_batches_of_one() -> None:
    graph = gngraph.from_torch(Normed(), torch.randn(2, 5))
    ones, twos = (reestimate(graph, problem(48, batch_size=size)).params["n.running_mean"].data for size in (1, 2))
    assert torch.equal(ones, twos) and ones.any()
