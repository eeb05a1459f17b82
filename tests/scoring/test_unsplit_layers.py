"""Layers whose splits are not learned are named, with the true reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores


class Net(nn.Module):
    """Parts and a function that runs them."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def attention(m: Net, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(-1, 4, 3, 2, 5).permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[operator]
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 4, 10)).flatten(1)  # type: ignore


AXIS = "but its channels are not split: its weight has no row for each of them"
# network, shape of an input, spaces whose channels are split, notes
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str], list[str]]] = {
    "transposed convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 1), nn.Tanh(), nn.ConvTranspose2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 2)
        ),
        (1, 2, 2), {"0"}, [f"'2' (transposed_conv2d) writes '2', {AXIS}"],
    ),
    "product": (
        lambda: Net(lambda m, x: m.out(torch.tanh(x @ m.w)), w=weight(3, 4), out=nn.Linear(4, 2)),
        (3,), set(), [f"'matmul' (matmul) writes 'matmul', {AXIS}"],
    ),
    "product with a bias": (
        lambda: Net(
            lambda m, x: m.out(torch.tanh(torch.addmm(m.b, x, m.w))), b=weight(4), w=weight(3, 4), out=nn.Linear(4, 2)
        ),
        (3,), set(), [f"'addmm' (addmm) writes 'addmm', {AXIS}"],
    ),
    "rows by number": (
        lambda: Net(
            lambda m, x: m.out(torch.tanh(m.table((x > 0).long())).flatten(1)), table=nn.Embedding(2, 4), out=nn.Linear(12, 2)
        ),
        (3,), set(), [f"'table' (embedding) writes 'table', {AXIS}"],
    ),
    "a weight used twice": (
        lambda: Net(
            lambda m, x: m.out(torch.tanh(m.a(x[:, :2]) * m.a(x[:, 2:]))), a=nn.Linear(2, 4), out=nn.Linear(4, 2)
        ),
        (4,), set(), ["'a' (linear) writes 'a', but its channels are not split: several nodes read 'a.weight'"],
    ),
    "attention heads": (
        lambda: Net(attention, qkv=nn.Linear(3, 30), out=nn.Linear(10, 2)),
        (4, 3), set(),
        [
            "'qkv' (linear) writes 'qkv', but its channels are not split: they are not followed through "
            "'scaled_dot_product_attention' (attention)"
        ],
    ),
    "maxima": (
        lambda: Net(lambda m, x: m.out(m.a(x).max(2)[0]), a=nn.Conv1d(2, 4, 1), out=nn.Linear(4, 2)),
        (2, 3), {"a"}, [],
    ),
    "a linear chain": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)),
        (3,), set(), ["'0' writes '0' without a non-linearity behind it: splits gain nothing"],
    ),
}  # fmt: skip


def scored(network: nn.Module, shape: tuple[int, ...]) -> Scores:
    x = torch.randn(24, *shape)
    y = network(x).detach()
    problem = Problem((x, y), loss="mse", device="cpu", learn=8, judge=8, report=8, batch_size=8)
    return AnalysisManager(problem).get(GaussNewton(kinds=("split", "prune")), from_torch(network, x[:1]))


@pytest.mark.parametrize("name", CASES)
def test_layers_that_are_not_split_are_named_with_the_reason(name: str) -> None:
    make, shape, split, notes = CASES[name]
    scores = scored(make().eval(), shape)
    assert {c.morphism.space for c in scores.candidates if c.morphism.kind == "split"} == split
    assert [note for note in scores.notes if "split" in note] == notes
