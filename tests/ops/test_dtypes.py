"""Type rules against torch: every pair of dtypes in arithmetic, and every op of one value for every dtype."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gngraph.errors import IRError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Flag, Graph, Node, Ref, TensorType, TupleType, Type
from gngraph.ir.types import dtype_name
from gngraph.lowering.to_torch import lower
from gngraph.ops import Call, Operands, OpSpec, lookup, register
from gngraph.ops.rules import all_axes, emit_simple
from gngraph.ops.spec import REQUIRED
from gngraph.ops.table import _FUNCTIONS, _TABLE

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128),
)
VALUES = [torch.ones(shape, dtype=dtype) for dtype in DTYPES for shape in ((2, 3), ())] + [2, 1.0, True]
"""Operands of arithmetic: tensors with axes and without, and Python's numbers."""

ARITHMETIC: dict[str, Callable[[Any, Any], Tensor]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "pow", "eq", "ne", "lt", "le", "gt", "ge")},
    "div": operator.truediv,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}

ARGUMENTS = {
    "kernel_size": 2, "output_size": 2, "norm_type": 2.0, "dim": 1, "dims": (1,), "k": 2, "shifts": 1, "dim0": 0, "dim1": 1,
    "chunks": 2, "sizes": 2, "threshold": 0.5, "value": 2.0, "min": 0, "pad": (1, 1), "upscale_factor": 2, "downscale_factor": 2,
    "groups": 2, "size": 3, "p": 0.5, "mode": "batch", "num_groups": 2, "normalized_shape": (4,), "training": False,
    "max": 2, "q": 0.5, "repeats": 2, "dimension": 1, "step": 1, "fill_value": 2.0, "format": "channels_last", "method": "to",
}  # fmt: skip
"""What arguments without a default are called with; some with one, whose default does not compute."""
BY_OP: dict[str, dict[str, Any]] = {
    "norm": {"p": "fro"},
    "normalize": {"p": 2.0},
    "interpolate": {"size": (3, 3), "mode": "nearest"},
    "clamp": {"min": 0.5},
    "pad": {"mode": "constant", "value": 0.0},
    "repeat_interleave": {"dim": 1},
    "fold": {"output_size": 3},
}


def inferred(op: str, values: list[Any], attrs: dict[str, Any]) -> Type:
    tensors = [v for v in values if isinstance(v, Tensor)]
    node = Node("node", op, tuple(f"x{i}" for i in range(len(tensors))), attrs=attrs)
    return lookup(op).infer(Operands(node, tuple(map(type_of, tensors)), {}))


def type_of(value: Any) -> Type:
    if isinstance(value, Tensor):
        return TensorType(dtype_name(value.dtype), tuple(value.shape))
    return TupleType(tuple(type_of(item) for item in value))


def computed(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What torch gives; None where it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **options)
    except (RuntimeError, TypeError, ValueError):
        return None


def agree(op: str, values: list[Any], attrs: dict[str, Any], found: Any) -> bool:
    """Whether the type rule gives the type of what torch found, or refuses what a graph cannot hold."""
    if any(leaf.dtype not in DTYPES for leaf in tree_leaves(found)):
        with pytest.raises(IRError, match="a graph holds no tensors of dtype"):
            inferred(op, values, attrs)
        return True
    return inferred(op, values, attrs) == type_of(found)


@pytest.mark.parametrize("op", [*ARITHMETIC, "where", "cat", "stack"])
def test_promotion_is_torchs(op: str) -> None:
    compared, mask = 0, torch.ones((2, 3), dtype=torch.bool)
    for a, b in product(VALUES, VALUES):
        found, given = None, [mask] if op == "where" else []
        attrs = {f"literal{i}": v for i, v in enumerate((a, b)) if not isinstance(v, Tensor)}
        if op in ("cat", "stack"):
            found = computed(getattr(torch, op), [a, b], dim=0)
            attrs["dim"] = 0
        elif any(isinstance(v, Tensor) for v in (a, b, *given)):
            found = computed(torch.where if op == "where" else ARITHMETIC[op], *given, a, b)
        if found is not None:
            assert agree(op, [*given, a, b], attrs, found), (a, b)
            compared += 1
    assert compared >= 100


def of_one_value() -> Iterator[tuple[str, dict[str, Any]]]:
    """Ops that a function of one tensor, without parameters, stands for, with arguments for it."""
    for name, spec in _TABLE.items():
        calls = [call for function, call in spec.functions.items() if call.operands == ("input",)]
        if (
            calls
            and name not in ("size", "numel", "assigned")
            and not any(key in calls[0].params and default is REQUIRED for key, default in calls[0].signature)
        ):
            own = ARGUMENTS | BY_OP.get(name, {})
            skipped = {"input", "_stacklevel", "return_indices", *calls[0].params, *calls[0].ignored}
            kept = {key: default for key, default in calls[0].signature if key not in skipped}
            asked = {
                key: own[key] if default is REQUIRED or key in BY_OP.get(name, ()) else default
                for key, default in kept.items()
            }
            yield name, asked


@pytest.mark.parametrize(("op", "attrs"), [pytest.param(*case, id=case[0]) for case in of_one_value()])
def test_types_of_every_dtype_are_torchs(op: str, attrs: dict[str, Any]) -> None:
    def found(x: Tensor) -> Any:
        node = Node("node", op, ("x",), attrs=attrs)
        graph = Graph("Net", {"x": Node("x", "input", type=type_of(x)), "node": node}, {}, ("x",), Ref("node"))
        return computed(lower(graph).module, x)

    images = [torch.ones((2, *(4,) * axes)) for axes in (2, 3, 4)]
    images += [torch.ones(2, 2, dtype=dtype) for dtype in (torch.float32, torch.complex64, torch.bool)]
    image = next(x for x in images if found(x) is not None)
    for dtype in DTYPES:
        value = found(image.to(dtype))
        assert value is None or agree(op, [image.to(dtype)], attrs, value), dtype


class Mixed(nn.Module):
    """Integers beside a network, combined with each other and with numbers in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor, count: Tensor) -> Tensor:
        share = count / 2 + count * 1.0 + torch.sigmoid(count + count.sum() + True)
        return cast(Tensor, self.last(torch.relu(self.first(x)) * share + torch.where(count > 1, count, 0.5)))


def test_types_of_integers_are_right_in_an_import() -> None:
    graph = from_torch(Mixed(), (torch.randn(2, 4), torch.ones(2, 3, dtype=torch.int8)))
    kinds = {n.op: n.type.dtype for n in graph.nodes.values() if isinstance(n.type, TensorType)}
    assert {op: kinds[op] for op in ("div", "sum", "sigmoid", "where", "gt")} == {
        "div": "f32", "sum": "i64", "sigmoid": "f32", "where": "f32", "gt": "bool",
    }  # fmt: skip
    assert not any(node.op == "foreign" for node in graph.nodes.values())


def test_a_number_of_another_kind_in_train_mode_is_refused() -> None:
    node = Node("node", "mul", ("x",), attrs={"literal1": Flag("training", 2, 0.5)})
    with pytest.raises(IRError, match=r"node 'node' \(mul\) gives another dtype in train mode"):
        lookup("mul").infer(Operands(node, (TensorType("i64", ("N", 2)),), {}))
    assert lookup("mul").infer(Operands(node, (TensorType("f16", ("N", 2)),), {})) == TensorType("f16", ("N", 2))


def halved(x: Tensor) -> Tensor:
    return x.double()[:, ::2]


class Halving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return halved(x).sum(1).float()


@pytest.mark.parametrize("wrong", ["f64[N,4]", "f32[N,2]"])
def test_an_import_refuses_a_type_that_its_run_denies(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs agree bit for bit, since sizes and dtypes of values inside are not computed with."""
    dtype, size = wrong[:3], int(wrong[-2])
    monkeypatch.setattr("gngraph.ops.table._TABLE", dict(_TABLE))
    monkeypatch.setattr("gngraph.ops.table._FUNCTIONS", dict(_FUNCTIONS))
    register(
        OpSpec(
            "halved",
            lambda operands: TensorType(dtype, (operands.tensor().shape[0], size)),
            all_axes,
            emit_simple(None, halved),
            functions={halved: Call((("x", REQUIRED),), operands=("x",))},
        )
    )
    message = rf"node 'halved' \(halved\) has the type '{re.escape(wrong)}', but gives f64\[3,2\]"
    with pytest.raises(UnsupportedModelError, match=message):
        from_torch(Halving(), torch.randn(3, 4))
