"""Axes of inputs whose sizes decided what a trace holds: Python looked at a number that depends on them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx

from gngraph.errors import UnsupportedModelError
from gngraph.importing.concrete import SAMPLE_COUNTS, Shadow
from gngraph.importing.inputs import ExampleInputs, InputAxis
from gngraph.ir import Graph
from gngraph.ops.foreign import DECIDED

LookedAtAs = Literal["flag", "number", "count"]
"""As what Python takes a value."""
_PLAIN = {
    *("device", "dim", "dtype", "get_device", "is_complex", "is_contiguous", "is_cuda", "is_floating_point", "layout"),
    *("ndim", "ndimension", "requires_grad", "training"),
}
"""What a forward may ask of a tensor that no size changes."""
_OF_POSITIVE = {
    operator.eq: lambda c: c < 1,
    operator.ne: lambda c: c < 1,
    operator.gt: lambda c: c < 1,
    operator.le: lambda c: c < 1,
    operator.ge: lambda c: c <= 1,
    operator.lt: lambda c: c <= 1,
}
"""Comparisons of a size with a constant, each with whether it comes out alike for every size of 1 and more."""


@dataclass(frozen=True)
class Look:
    """A value that Python looked at while a forward was traced.

    Attributes:
        node: what computes it.
        of: whether it was taken as a flag, as a number, or only counted.
    """

    node: fx.Node
    of: LookedAtAs


@dataclass(frozen=True)
class Decided:
    """What the sizes of inputs decided while a forward was traced.

    Attributes:
        axes: those whose sizes did.
        alone: whether it was asked if there is one sample, as transformers ask before they repeat positions; what was traced is
            what several samples take, and whether one takes the same is to be seen.
    """

    axes: frozenset[InputAxis] = frozenset()
    alone: bool = False


def decided_by(name: str, shadow: Shadow, looks: Sequence[Look], inputs: ExampleInputs) -> Decided:
    """What sizes decided, found by running the trace for other sizes, without data.

    An axis decides too where what was looked at has to do with sizes, and the trace runs for no other.

    Args:
        name: the module's, for messages.
        shadow: of the trace, as far as it was asked for.
        looks: what was looked at.
        inputs: example inputs.

    Raises:
        UnsupportedModelError: something depends on the number of samples, which a graph leaves open.
    """
    few, more = shadow.seen()
    questions = [q for look in dict.fromkeys(looks) if (q := _Question.of(look, few)) is not None]
    alone = False
    for question in questions:
        if not question.of_any and question.depends({}, [more]):
            if question.asks_for_one(more):
                alone = True
                continue
            raise UnsupportedModelError(
                f"'{name}' decides by the number of samples (node '{question.node.name}'), which a graph leaves open; let its "
                f"forward do the same for every number of samples"
            )
    questions = [q for q in questions if not (q.of_any and q.of_input)]
    found: set[InputAxis] = set()
    for i, x in enumerate(inputs.tensors if questions else ()):
        for axis in inputs.others(i):
            size = x.shape[axis]
            longer = shadow.values((i, axis), size + 1)
            others = [shadow.values((i, axis), times * size) for times in (2, 16)]
            if not all(question.answered(others) for question in questions):
                others += [shadow.values((i, axis), n) for n in (size // 2, size - 1) if n > 0]
            if any(question.depends(longer, others) for question in questions):
                found.add((i, axis))
    return Decided(frozenset(found), alone)


@dataclass(frozen=True)
class _Question:
    """A look that sizes enter.

    Attributes:
        node: what was looked at.
        base: the values for the example's sizes.
        read: the numbers that it is computed from, as they are read of shapes.
        counted: whether only the number of items counts.
        of_any: whether it comes out alike for every size of 1 and more.
        of_input: whether it is the size of an input.
    """

    node: fx.Node
    base: Mapping[fx.Node, Any]
    read: tuple[fx.Node, ...]
    counted: bool = False
    of_any: bool = False
    of_input: bool = False

    @staticmethod
    def of(look: Look, base: Mapping[fx.Node, Any]) -> _Question | None:
        """None where no size enters."""
        node = look.node
        if look.of == "count":
            found = base.get(node)
            if node.op == "call_module" or (isinstance(found, tuple) and all(isinstance(x, int) for x in found)):
                return None  # as many as ever, as the sizes of a shape
            return _Question(node, base, (node,), counted=True)
        read = tuple(dict.fromkeys(_numbers_read(node, base)))
        of_any = look.of == "flag" and _holds_for_any(node, read)
        of_input = of_any and all(_source(entry).op == "placeholder" for entry in read)
        return _Question(node, base, read, of_any=of_any, of_input=of_input) if read else None

    def answered(self, runs: Iterable[Mapping[fx.Node, Any]]) -> list[Mapping[fx.Node, Any]]:
        """The runs that came as far as this."""
        return [values for values in runs if all(node in values for node in (self.node, *self.read))]

    def depends(self, longer: Mapping[fx.Node, Any], others: Sequence[Mapping[fx.Node, Any]]) -> bool:
        """Whether the decision may come out otherwise for sizes like those of `longer`, one entry more, and `others`."""
        runs = self.answered((longer, *others))
        if not self.answered(others):
            return True
        varied = any(self._number(node, run) != self._number(node, self.base) for run in runs for node in self.read)
        return varied and not (self._is_settled([self.base, *runs]) and (not longer or self.answered([longer])))

    def asks_for_one(self, more: Mapping[fx.Node, Any]) -> bool:
        """Whether it compares the number of samples, alone, with 1; `more` has the values for another number of them."""
        if self.counted or self.node.target not in (operator.eq, operator.ne):
            return False
        sides = [tuple(_numbers(side, run) for run in (self.base, more)) for side in self.node.args]
        samples = tuple((count,) for count in SAMPLE_COUNTS)
        return ((1,), (1,)) in sides and samples in sides

    def _number(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        return len(values[node]) if self.counted else values[node]

    def _is_settled(self, runs: Sequence[Mapping[fx.Node, Any]]) -> bool:
        """Whether two values are compared that are equal in all runs, or always differ in one number."""
        if self.counted or self.node.target not in (operator.eq, operator.ne):
            return False
        a, b = (list(zip(*(_numbers(side, run) for run in runs), strict=False)) for side in self.node.args)
        return a == b or any(x != y and len(set(x)) == len(set(y)) == 1 for x, y in zip(a, b, strict=False))


def _numbers(value: Any, run: Mapping[fx.Node, Any]) -> tuple[Any, ...]:
    """What an argument is in a run, as a tuple."""
    found = fx.node.map_arg(value, lambda node: run.get(node))
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def _source(node: fx.Node) -> fx.Node:
    """The tensor that a number is read of."""
    source = node.all_input_nodes[0]
    return source if node.target is not operator.getitem else _source(source)


def _numbers_read(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterator[fx.Node]:
    """The nodes that read of a tensor's shape what `node` is computed from."""
    sources = node.all_input_nodes
    of_tensor = any(isinstance(values.get(source), torch.Tensor) for source in sources)
    if of_tensor or (node.target is operator.getitem and isinstance(values.get(sources[0]), torch.Size)):
        if (node.args[1] if node.target is getattr else node.target) not in _PLAIN:
            yield node
        return
    for source in sources:
        yield from _numbers_read(source, values)


def _holds_for_any(node: fx.Node, read: Sequence[fx.Node]) -> bool:
    """Whether it is asked if a size is at least 1, as every size is."""
    if read == (node,):
        return True
    holds: Any = _OF_POSITIVE.get(node.target)  # type: ignore[arg-type]
    return holds is not None and node.args[0] in read and isinstance(node.args[1], int) and holds(node.args[1])


def with_decided(graph: Graph, axes: Iterable[InputAxis]) -> Graph:
    """A graph whose inputs say which of their axes must be of the size that the graph was made for."""
    nodes = dict(graph.nodes)
    for i, axis in sorted(axes):
        node = nodes[graph.inputs[i]]
        nodes[node.name] = replace(node, attrs={**node.attrs, DECIDED: (*node.attrs.get(DECIDED, ()), axis)})
    return replace(graph, nodes=nodes)
