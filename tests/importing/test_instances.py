"""What a forward asks of a value's class, it is answered while it is traced as when it runs."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)


def asserted(s: Any, x: Tensor) -> Tensor:
    assert isinstance(x, Tensor), "no tensor"
    return head(s, s.a(x))


def listed(s: Any, x: Any) -> Tensor:
    maps = [x] if isinstance(x, Tensor) else x
    return head(s, s.a(maps[0]))


def first_of_several(s: Any, x: Tensor) -> Tensor:
    found = s.recurrent(s.a(x).flatten(2))
    if isinstance(found, tuple):
        found = found[0]
    return cast(Tensor, s.h(found[:, -1]))


def first_of_a_sequence(s: Any, x: Tensor) -> Tensor:
    found = s.a(x).chunk(2, 1)
    return head(s, torch.cat([found[0], found[1].relu()] if isinstance(found, Sequence) else found, 1))


def resized(s: Any, x: Tensor) -> Tensor:
    size: Any = x.shape[-2:]
    if isinstance(size, (tuple, list)):
        size = size[0]
    return head(s, F.interpolate(s.a(x), size=(size, size)))


def counted(s: Any, x: Tensor) -> Tensor:
    factor = 3.0 if isinstance(x.shape[2], int) and isinstance(x.shape[2] // 2, numbers.Number) else 2.0
    return head(s, s.a(x) * factor)


def parameter(s: Any, x: Tensor) -> Tensor:
    kinds = isinstance(s.a.weight, nn.Parameter), isinstance(s.a.weight * 2, nn.Parameter)
    return head(s, s.a(x) * (3.0 if kinds == (True, False) else 2.0))


def matched(s: Any, x: Any) -> Tensor:
    match x:
        case Tensor(ndim=4):
            return head(s, s.a(x))
        case _:
            return head(s, s.a(x[0]))


def matched_shape(s: Any, x: Tensor) -> Tensor:
    match x.shape:
        case (_, channels, *size) if channels == 1:
            x = x / size[0]
    match s.a(x).size():
        case (count, 4, int() as rows, _):
            return head(s, s.a(x).reshape(count, 4, rows, -1))
    raise AssertionError


@singledispatch
def doubled(x: Any) -> Any:
    return [2 * item for item in x]


@doubled.register
def _(x: Tensor) -> Tensor:
    return 3 * x


def typed(s: Any, x: Any) -> Tensor:
    kinds = type(x), x.__class__, type(x.shape), type(x.shape[2] // 2), type(s.h.in_features)
    factor = 3.0 if int(x.shape[2]) and kinds == (Tensor, Tensor, torch.Size, int, int) else 2.0
    factor *= 3.0 if type(x) is torch.Tensor and type(x.shape[2]) is int and type(s.h.in_features) is int else 2.0
    return head(s, s.a(x) * factor * {Tensor: 3.0}.get(type(x), 2.0))


ASKING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "isinstance": lambda s, x: head(s, s.a(x) * (2.0 if isinstance(x, Tensor) else 3.0)),
    "is_tensor": lambda s, x: head(s, s.a(x) * (2.0 if torch.is_tensor(x) else 3.0)),
    "asserted": asserted,
    "listed": listed,
    "several outputs": first_of_several,
    "a sequence": first_of_a_sequence,
    "a shape": resized,
    "numbers": counted,
    "a parameter": parameter,
    "a pattern": matched,
    "patterns of sizes": matched_shape,
    "a dispatched function": lambda s, x: head(s, doubled(s.a(x))),
    "a type": typed,
}


@pytest.mark.parametrize("name", list(ASKING))
def test_it_computes_and_trains_as_the_module_does(name: str) -> None:
    module = Body(ASKING[name], recurrent=nn.LSTM(36, 4, batch_first=True))
    assert steps_differ(module, to_torch(from_torch(module, torch.zeros(2, 1, 8, 8))), X) == []
