"""Example inputs by samples: which of them have an entry for each, and which all samples share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from types import MappingProxyType

import torch

from gngraph.errors import UnsupportedModelError
from gngraph.ir import BATCH, Node, Parameter, TensorType
from gngraph.ir.inputs import SHARED_VALUE
from gngraph.ir.types import dtype_name
from gngraph.lowering.probe import range_of
from gngraph.ops.foreign import DECIDED

InputAxis = tuple[int, int]
"""Number of an input, and of one of its axes."""

Sizes = Mapping[InputAxis, int]
"""Of axes that are to be of another size than in the example."""

AS_GIVEN: Sizes = MappingProxyType({})

_MISSING, _TRIED = 2, 64
"""Most inputs that are as long as there are samples and shared nevertheless, and most choices of these that are tried."""


@dataclass(frozen=True)
class ExampleInputs:
    """Example inputs of a network.

    Attributes:
        tensors: one an input.
        axes: of each the axis along which it has an entry for each sample; None where all samples share it, as a mask for all.
    """

    tensors: tuple[torch.Tensor, ...]
    axes: tuple[int | None, ...]

    @staticmethod
    def batch_first(tensors: Sequence[torch.Tensor]) -> ExampleInputs:
        """Inputs that have the samples along their first axes, as far as they have any."""
        return ExampleInputs(tuple(tensors), tuple(0 if x.dim() else None for x in tensors))

    @property
    def shared(self) -> bool:
        """Whether all samples share one that is more than a number."""
        return any(x.dim() and axis is None for x, axis in zip(self.tensors, self.axes, strict=True))

    @property
    def count(self) -> int:
        """Samples; 1 where there are none."""
        found = (x.shape[axis] for x, axis in zip(self.tensors, self.axes, strict=True) if axis is not None)
        return next(found, 1)

    def others(self, i: int) -> list[int]:
        """The axes of input `i` that may have other sizes: all but that of the samples, or none where all samples share it."""
        return [] if self.axes[i] is None else [axis for axis in range(self.tensors[i].dim()) if axis != self.axes[i]]

    def shapes(self, count: int, sizes: Sizes = AS_GIVEN) -> Iterator[tuple[int, ...]]:
        """The shapes of all inputs for `count` samples, with axes of other `sizes`."""
        for i, (x, own) in enumerate(zip(self.tensors, self.axes, strict=True)):
            yield tuple(count if axis == own else sizes.get((i, axis), size) for axis, size in enumerate(x.shape))

    def without_data(self, count: int, sizes: Sizes = AS_GIVEN) -> list[torch.Tensor]:
        """Inputs like these for `count` samples, without values.

        Args:
            count: number of samples.
            sizes: of axes that are to be of another size.
        """
        shapes = self.shapes(count, sizes)
        return [torch.empty(shape, dtype=x.dtype, device="meta") for shape, x in zip(shapes, self.tensors, strict=True)]

    def first(self, count: int) -> ExampleInputs:
        """At most `count` samples, the first ones."""
        return self.rows(range(min(count, self.count)))

    def rows(self, numbers: Sequence[int]) -> ExampleInputs:
        """The samples of these numbers."""
        chosen = torch.tensor(numbers)
        pairs = zip(self.tensors, self.axes, strict=True)
        found = (x if axis is None else x.index_select(axis, chosen.to(x.device)) for x, axis in pairs)
        return ExampleInputs(tuple(found), self.axes)


def input_node(name: str, inputs: ExampleInputs, i: int, params: dict[str, Parameter], taken: Collection[str]) -> Node:
    """The node of input `i` of a graph; one that all samples share keeps its sizes, and has the values of the example.

    Args:
        name: of the node.
        inputs: of the graph.
        i: number of one.
        params: of the graph, to which the values are added.
        taken: paths that they must not hide.
    """
    tensor = inputs.tensors[i]
    dtype, shape, attrs = dtype_name(tensor.dtype), tuple(tensor.shape), range_of(tensor)
    own = inputs.axes[i]
    if own is not None:
        sizes = tuple(BATCH if axis == own else size for axis, size in enumerate(shape))
        return Node(name, "input", attrs=attrs, type=TensorType(dtype, sizes))
    held, first = f"{name}_{SHARED_VALUE}", {path.partition(".")[0] for path in (*taken, *params)}
    while held in first:
        held += "_"
    params[held] = Parameter(tensor.clone(), "constant", trainable=False)
    decided = {DECIDED: tuple(range(len(shape)))} if shape else {}
    return Node(name, "input", (), {SHARED_VALUE: held}, {**attrs, **decided}, TensorType(dtype, shape))


Returning = Callable[[Sequence[torch.Tensor]], Sequence[torch.Size]]
"""The shapes of what a network returns, in order."""


def told_by_samples(
    given: ExampleInputs, names: Sequence[str], name: str, outputs: Sequence[torch.Size], run: Returning
) -> ExampleInputs:
    """Example inputs with their axes of samples, found by running the network with another number of samples.

    Those of samples have as many entries as one another; a network runs for more of them, and gives as many more. Where all inputs
    are as long, all are of samples, unless the network does not run so, as where a mask has as many rows as there are samples.
    Samples along second axes, behind tokens, are looked for last.

    Args:
        given: the inputs, batch first.
        names: of theirs.
        name: of the network.
        outputs: what `run` gives for the example.
        run: runs the network, and raises what it raises.

    Raises:
        UnsupportedModelError: no inputs can be those of samples, or several can.
    """
    lengths = {i: len(x) for i, x in enumerate(given.tensors) if x.dim()}
    alike = len(set(lengths.values())) < 2
    if len(lengths) < 2 or (alike and _runs(given, run) is not None):
        return given
    for last in (0, 1):
        for some in _candidates(given, last):
            fitting = [own for own in some if _grow(outputs, _runs(own, run), own, last)]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                one, other = (_named(own, names) for own in fitting[:2])
                raise UnsupportedModelError(
                    f"{one} of '{name}' may be its inputs that have an entry for each sample, and so may {other}: it runs for more "
                    f"of either; give as many samples of all, and let what they share have another length"
                )
    if alike:
        return given
    told = ", ".join(f"'{names[i]}' {count}" for i, count in lengths.items())
    raise UnsupportedModelError(
        f"the inputs of '{name}' have different lengths ({told}), and with more entries along the first or second axes of none of "
        f"them does it run, and give as much more: samples lie along one of these of each input that has them; wrap the network in "
        f"a module whose forward takes and gives them so"
    )


def _candidates(given: ExampleInputs, last: int) -> Iterator[list[ExampleInputs]]:
    """Choices of axes of samples up to the `last`, one of which they lie along: all that are as long, then fewer."""
    sizes = dict.fromkeys(size for x in given.tensors for size in x.shape[: last + 1])
    along = {
        size: {
            i: [axis for axis in range(min(last + 1, x.dim())) if x.shape[axis] == size]
            for i, x in enumerate(given.tensors)
            if size in x.shape[: last + 1]
        }
        for size in sizes
    }
    for missing in range(_MISSING + 1):
        found = [
            ExampleInputs(
                given.tensors, tuple(dict(zip(some, axes, strict=True)).get(i) for i in range(len(given.tensors)))
            )
            for able in along.values()
            if len(able) > missing
            for some in combinations(able, len(able) - missing)
            for axes in product(*(able[i] for i in some))
            if last in axes
        ]
        yield found[:_TRIED]


def _named(inputs: ExampleInputs, names: Sequence[str]) -> str:
    return ", ".join(f"'{names[i]}'" for i, axis in enumerate(inputs.axes) if axis is not None)


def _runs(inputs: ExampleInputs, run: Returning) -> Sequence[torch.Size] | None:
    """What `run` gives for another number of samples; None where the network does not run so."""
    try:
        return run(_longer(inputs).tensors)
    except Exception:  # whatever the user's own module raises for such inputs
        return None


def _longer(inputs: ExampleInputs) -> ExampleInputs:
    """More samples, as many as no axis of the inputs has entries."""
    sizes, old = {size for x in inputs.tensors for size in x.shape}, inputs.count
    count = next(n for n in range(old + 1, old + 2 + len(sizes)) if n not in sizes)
    return inputs.rows([i % old for i in range(count)])


def _grow(before: Sequence[torch.Size], after: Sequence[torch.Size] | None, inputs: ExampleInputs, last: int) -> bool:
    """Whether some output has as many more entries as there are more samples, along an axis up to the `last`."""
    if after is None or [len(shape) for shape in before] != [len(shape) for shape in after]:
        return False
    old, new = inputs.count, _longer(inputs).count
    pairs = (pair for a, b in zip(before, after, strict=True) for pair in zip(a[: last + 1], b, strict=False))
    return any(a % old == 0 and b == a // old * new for a, b in pairs)
