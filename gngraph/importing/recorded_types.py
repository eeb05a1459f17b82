"""Types of foreign values, seen in two runs of a traced network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from gngraph.importing.concrete import BATCHES, Shadow
from gngraph.ir import BATCH, OpaqueType, TensorType, TupleType, Type
from gngraph.ir.types import dtype_name
from gngraph.lowering.interpreter import Interpreter


def record_types(module: nn.Module, traced: fx.Graph, inputs: Sequence[torch.Tensor]) -> dict[fx.Node, Type]:
    """The type of every value, from two runs with batches of 2 and of 3 samples.

    The runs compute shapes alone, which takes milliseconds; only where an op has no rule for that, or looks at values, they
    compute the values, at the price of two forward passes.
    """
    try:
        runs = [
            {node: _summary(value) for node, value in run.items()}
            for run in Shadow(module, traced, inputs).everything()
        ]
    except Exception:  # whatever an op raises that cannot run without data
        runs = []
        for batch in BATCHES:
            recorder = _Recorder(module, traced)
            recorder.run(*(x[:1].expand(batch, *x.shape[1:]).clone() for x in inputs))
            runs.append(recorder.seen)
    return {node: _type_of(runs[0][node], runs[1][node]) for node in runs[0]}


class _Recorder(Interpreter):
    """Runs a trace and keeps the shape and dtype of every value."""

    def __init__(self, module: nn.Module, traced: fx.Graph) -> None:
        super().__init__(module, graph=traced)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.seen[n] = _summary(result)
        return result


def _summary(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorType(dtype_name(value.dtype), tuple(value.shape))
    if isinstance(value, torch.Size):
        return OpaqueType("torch.Size")
    if isinstance(value, (tuple, list)):
        return TupleType(tuple(_summary(item) for item in value))
    return OpaqueType(type(value).__name__)


def _type_of(two: Any, three: Any) -> Type:
    """A type with a symbolic batch from the types seen with batches of 2 and 3."""
    if isinstance(two, TensorType) and isinstance(three, TensorType):
        dims = tuple(
            a if a == b else (BATCH if (a, b) == (2, 3) else f"{int(a) // 2}*{BATCH}")
            for a, b in zip(two.shape, three.shape, strict=True)
        )
        return TensorType(two.dtype, dims)
    if isinstance(two, TupleType) and isinstance(three, TupleType):
        return TupleType(tuple(_type_of(x, y) for x, y in zip(two.items, three.items, strict=True)))
    assert isinstance(two, OpaqueType)
    return two
