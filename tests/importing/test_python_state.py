"""State that a module keeps in Python, wherever it stands: a graph would hold it as it is at import."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch

_LATE = 1000
"""A run that comes long after the import's own."""
_RUNS = [0]


class Counting(nn.Module):
    """A layer whose output changes after many runs, which a place outside of its tensors counts."""

    of_class = 0

    def __init__(self, counted: Callable[[Any], float]) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.counted = counted
        self.table, self.iterator = {"step": 0}, itertools.count()

    def forward(self, x: Tensor, held: list[int] = []) -> Tensor:  # noqa: B006  (the fault that is tried)
        held[0:1] = [held[0] + 1 if held and self.counted is by_default else 0]
        late = self.counted(self) >= _LATE or held[0] >= _LATE
        return self.a(x) * 0.5 if late else self.a(x)  # type: ignore[no-any-return]


def by_class(module: Counting) -> float:
    type(module).of_class += 1
    return type(module).of_class


def by_table(module: Counting) -> float:
    module.table["step"] += 1
    return module.table["step"]


def by_iterator(module: Counting) -> float:
    return next(module.iterator)


def by_default(module: Counting) -> float:
    return 0.0


def by_closure() -> Callable[[Counting], float]:
    runs = 0

    def counted(module: Counting) -> float:
        nonlocal runs
        runs += 1
        return runs

    return counted


class OfGlobal(Counting):
    def forward(self, x: Tensor, held: list[int] = []) -> Tensor:  # noqa: B006
        _RUNS[0] += 1
        return self.a(x) * (0.5 if _RUNS[0] >= _LATE else 1.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "place"),
    [
        (Counting(by_class), r"Counting\.of_class"),
        (Counting(by_table), r"table\['step'\]"),
        (Counting(by_iterator), "iterator"),
        (Counting(by_default), r"Counting\.forward\.__defaults__\[0\]\[0\]"),
        (Counting(by_closure()), r"counted\.runs"),
        (OfGlobal(by_default), r"_RUNS\[0\]"),
    ],
    ids=["class", "table", "iterator", "default", "closure", "global"],
)
def test_what_a_module_counts_is_found_wherever_it_stands(module: nn.Module, place: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"changes '[\\w.]*{place}' whenever it runs in train mode"):
        from_torch(module, torch.randn(2, 3))


def test_what_is_kept_once_is_no_counter() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)
            self.scales: dict[int, float] = {}

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.scales.setdefault(x.shape[1], 0.5)  # type: ignore[no-any-return]

    assert from_torch(Caching(), torch.randn(2, 3)).nodes
