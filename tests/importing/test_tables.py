"""Sizes, dtypes and devices as keys: a table answers while a forward is traced as it does when it runs, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from gngraph.errors import DataError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)
BY_SAMPLES: dict[str, Callable[[Tensor], float]] = {
    "get": lambda x: {32: 3.0}.get(x.shape[0], 1.0),
    "item": lambda x: {4: 3.0}[x.size(0)],
    "set": lambda x: 2.0 if len(x) in {32, 64} else 1.0,
    "shape": lambda x: {torch.Size([32, 1, 8, 8]): 3.0}.get(x.shape, 1.0),
    "half": lambda x: {16: 3.0}.get(x.shape[0] // 2, 1.0),
    "text": lambda x: {"k32": 3.0}.get(f"k{x.shape[0]}", 1.0),
    "text of a set": lambda x: 2.0 if str(len(x)) in {"32", "64"} else 1.0,
    "name of an attribute": lambda x: getattr(torch, f"k{x.shape[0]}", 1.0),
}
BY_SIZES: dict[str, Callable[[Tensor], float]] = {
    "get": lambda x: {11: 3.0}.get(x.shape[2], 1.0),
    "item": lambda x: {8: 3.0}[x.size(2)],
    "pair": lambda x: {(11, 8): 3.0}.get((x.shape[2], x.shape[3]), 1.0),
    "shape": lambda x: {torch.Size([8, 8]): 3.0}.get(x.shape[2:], 1.0),
    "text": lambda x: {"maps of 11": 3.0}.get(f"maps of {x.shape[2]}", 1.0),
    "padded text": lambda x: {"008": 3.0}[f"{x.shape[2]:03d}"],
    "name": lambda x: {"8": 3.0}[str(x.shape[2])],
}
BY_KIND: dict[str, Callable[[Tensor], float]] = {
    "axes": lambda x: {4: 3.0}[x.dim()],
    "device": lambda x: {torch.device("cpu"): 3.0}.get(x.device, 1.0),
    "dtype": lambda x: {torch.float32: 3.0, torch.float64: 3.0}[x.dtype],
    "text of a device": lambda x: 3.0 if "cpu" in str(x.device) else 1.0,
    "attribute": lambda x: x.weights if hasattr(x, "weights") else getattr(x, "scale", 3.0),
}


def scaled(factor: Callable[[Tensor], float]) -> Body:
    return Body(lambda s, x: head(s, s.a(x) * factor(x)))


@pytest.mark.parametrize("name", list(BY_SAMPLES))
def test_a_table_of_numbers_of_samples_is_refused_by_its_node(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"number of samples \(node '\w+'\)"):
        from_torch(scaled(BY_SAMPLES[name]), X)


@pytest.mark.parametrize("name", list(BY_SIZES))
def test_a_table_of_sizes_holds_for_the_size_of_the_example(name: str) -> None:
    lowered = to_torch(from_torch(module := scaled(BY_SIZES[name]), X))
    assert steps_differ(module, lowered, X) == []
    with pytest.raises(DataError, match="8"):
        lowered(torch.randn(4, 1, 11, 8))


@pytest.mark.parametrize("name", list(BY_KIND))
def test_a_table_of_kinds_holds_for_every_size(name: str) -> None:
    lowered = to_torch(from_torch(module := scaled(BY_KIND[name]), X))
    assert steps_differ(module, lowered, torch.randn(3, 1, 11, 8)) == []


class Cached(Body):
    def __init__(self, key: Callable[[Tensor], Any]) -> None:
        super().__init__(head)
        self.kept: dict[Any, Tensor] = {}
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        key = self.key(x)
        if key not in self.kept:
            self.kept[key] = torch.arange(x.shape[3] - 2).to(x)
        return head(self, self.a(x) * self.kept[key])


class CachedByText(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.kept: dict[str, Tensor] = getattr(self, "kept", {})
        key = f"of {x.shape[0]}"
        if key not in self.kept:
            self.kept[key] = torch.arange(x.shape[3] - 2).to(x)
        return head(self, self.a(x) * self.kept[key])


@lru_cache
def positions(count: int, width: int) -> Tensor:
    return torch.arange(width).expand(count, 1, 1, width)


CACHES: dict[str, Callable[[], Body]] = {
    "by sizes": lambda: Cached(lambda x: (x.shape[2], x.shape[3])),
    "by samples": lambda: Cached(lambda x: (x.shape[0], x.shape[3])),
    "by shapes": lambda: Cached(lambda x: x.shape),
    "by text": lambda: CachedByText(head),
    "of a function": lambda: Body(lambda s, x: head(s, s.a(x) + positions(x.shape[0], x.shape[3] - 2))),
}


@pytest.mark.parametrize("name", list(CACHES))
def test_what_a_forward_keeps_by_sizes_decides_nothing(name: str) -> None:
    module = CACHES[name]()
    lowered = to_torch(from_torch(module, X))
    for shape in ((4, 1, 8, 8), (3, 1, 11, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(lowered.eval()(x), cast(Tensor, module.eval()(x)), rtol=0, atol=0)
