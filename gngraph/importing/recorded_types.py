"""What values are and take: types and multiply-adds of foreign ops, seen in two runs, and all types held against a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.concrete import SAMPLE_COUNTS, Shadow
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.shapes import ShapesSeen
from gngraph.ir import BATCH, Dim, Graph, Node, OpaqueType, TensorType, TupleType, Type
from gngraph.ir.types import dtype_name
from gngraph.lowering.counting import CountingInterpreter
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.to_torch import Lowered, lower
from gngraph.ops.sizes import factors, product


@dataclass(frozen=True)
class ForeignValue:
    """What two runs show of a value.

    Attributes:
        type: its type, with a symbolic batch.
        multiply_adds: what computing it takes, for one sample.
    """

    type: Type
    multiply_adds: int


def record(
    module: nn.Module, root: nn.Module, traced: fx.Graph, inputs: ExampleInputs, known: ShapesSeen
) -> Callable[[fx.Node], ForeignValue]:
    """What gives the type and the multiply-adds of any node, from two runs with batches of 2 and of 3 samples.

    The runs compute shapes alone, which takes milliseconds; only where an op has no rule for that, or looks at values, they
    compute the values, at the price of two forward passes.

    Args:
        module: what was traced, as it was before; it is not changed, and none of its tensors is copied.
        root: the copy that was traced, with the constants of the trace.
        traced: its graph.
        inputs: example inputs.
        known: see `Shapes`.
    """
    runs: list[tuple[Mapping[fx.Node, Any], Mapping[fx.Node, int]]]
    try:
        runs = [
            ({node: _summary(value) for node, value in run.items()}, counts)
            for run, counts in Shadow(module, root, traced, inputs, known).everything()
        ]
    except Exception:  # whatever an op raises that cannot run without data
        runs = []
        for batch in SAMPLE_COUNTS:
            recorder = _Recorder(root, traced)
            with recorder.counting():
                recorder.run(*inputs.rows([0] * batch).tensors)
            runs.append((recorder.seen, recorder.multiply_adds))
    (two, count_two), (three, count_three) = runs

    def recorded(node: fx.Node) -> ForeignValue:
        return ForeignValue(
            _type_of(node, two[node], three[node]), _of_one(count_two.get(node, 0), count_three.get(node, 0))
        )

    return recorded


def run_checked(graph: Graph, inputs: ExampleInputs) -> tuple[nn.Module, Any]:
    """The module that `graph` is lowered to, and what it returns in eval mode; every value is compared with the type of its node.

    The module shares the graph's parameters.

    Raises:
        UnsupportedModelError: a node has another type than its value; the message names it.
    """
    lowered, batch = lower(graph), inputs.count
    return lowered.module, _Checker(graph, lowered, batch).run(*inputs.tensors)


class _Checker(Interpreter):
    """Runs a lowered graph and compares every value with its node's type, for a batch of `batch` samples."""

    def __init__(self, graph: Graph, lowered: Lowered, batch: int) -> None:
        super().__init__(lowered.module)
        self.batch = batch
        self.computed: dict[fx.Node, list[Node]] = {}
        for name, step in lowered.values.items():
            self.computed.setdefault(step, []).append(graph.nodes[name])

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for node in self.computed.get(n, ()):
            if not _has_type(result, node.type, self.batch):
                called = node.attrs["target"] if node.op == "foreign" else node.op
                gives = f"gives {_shown(result)} for a batch of {self.batch}"
                why = f"; the type rule of '{node.op}' is wrong, or the forward does not treat samples alike"
                if node.op == "foreign":
                    why = (
                        ": its size depends on the data, as those of nonzero(), x[mask] and torch.where(mask) do, or samples are "
                        "not treated alike; take all entries and choose among them (torch.where(mask, a, b), x * mask)"
                    )
                raise UnsupportedModelError(
                    f"node '{node.name}' ({called}) has the type '{node.type}', but {gives}{why}"
                )
        return result


def _has_type(value: Any, type_: Type, batch: int) -> bool:
    """Whether a value has a type; of what is no tensor, as far as the type knows its value."""
    if isinstance(type_, TensorType):
        sizes = tuple(_size(dim, batch) for dim in type_.shape)
        return isinstance(value, torch.Tensor) and (dtype_name(value.dtype), tuple(value.shape)) == (type_.dtype, sizes)
    if isinstance(type_, TupleType):
        return len(value) == len(type_.items) and all(
            _has_type(item, own, batch) for item, own in zip(value, type_.items, strict=True)
        )
    if type_.value is None:
        return not isinstance(value, torch.Tensor)
    known = type_.value if isinstance(type_.value, tuple) else (type_.value,)
    return (tuple(value) if isinstance(value, tuple) else (value,)) == tuple(_size(dim, batch) for dim in known)


def _size(dim: Dim, batch: int) -> int:
    number, names = factors(dim)
    return number * int(batch ** len(names))


def _shown(value: Any) -> str:
    return str(_summary(value)) if not isinstance(value, (int, torch.Size)) else str(value)


class _Recorder(CountingInterpreter):
    """Runs a trace and keeps the shape and dtype of every value."""

    def __init__(self, module: nn.Module, traced: fx.Graph) -> None:
        super().__init__(module, graph=traced)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.seen[n] = _summary(result)
        return result


def _of_one(two: int, three: int) -> int:
    """What one sample takes, from what 2 and 3 samples take: an amount for each, and one for what does not depend on them.

    What grows faster than the batch, as attention between samples does, has no such amounts: it counts half of what two take.
    """
    return max(2 * two - three, two // 2)


def _summary(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorType(dtype_name(value.dtype), tuple(value.shape))
    if isinstance(value, torch.Size):
        return OpaqueType("torch.Size")
    if isinstance(value, (tuple, list)):
        return TupleType(tuple(_summary(item) for item in value))
    return OpaqueType(type(value).__name__)


def _type_of(node: fx.Node, two: Any, three: Any) -> Type:
    """A type with a symbolic batch from the types of a node's values seen with batches of 2 and 3."""
    if isinstance(two, TensorType) and isinstance(three, TensorType) and len(two.shape) == len(three.shape):
        return TensorType(two.dtype, tuple(_dim(node, a, b) for a, b in zip(two.shape, three.shape, strict=True)))
    if isinstance(two, TupleType) and isinstance(three, TupleType) and len(two.items) == len(three.items):
        return TupleType(tuple(_type_of(node, x, y) for x, y in zip(two.items, three.items, strict=True)))
    if isinstance(two, OpaqueType):
        return two
    raise UnsupportedModelError(
        f"node '{node.name}' gives {two} for 2 samples, but {three} for 3; it must give as many axes and items"
    )


def _dim(node: fx.Node, two: Dim, three: Dim) -> Dim:
    if two == three:
        return two
    times, rest = divmod(int(two), 2)
    if rest or times * 3 != three:
        raise UnsupportedModelError(
            f"node '{node.name}' has an axis of {two} entries for 2 samples and of {three} for 3; a graph holds only axes "
            f"of a fixed length, or of a fixed number of entries a sample"
        )
    return product(times, BATCH)
