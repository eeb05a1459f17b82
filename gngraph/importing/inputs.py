"""Example inputs by samples: which of them have an entry for each, and which all samples share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
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

_TRIED = 5
"""Most inputs of one length that are tried one without another."""


@dataclass(frozen=True)
class ExampleInputs:
    """Example inputs of a network.

    Attributes:
        tensors: one an input; those of samples batch first.
        shared: numbers of those that all samples share, such as a mask for all of them.
    """

    tensors: tuple[torch.Tensor, ...]
    shared: frozenset[int] = frozenset()

    def is_of_samples(self, i: int) -> bool:
        """Whether input `i` has an entry for each sample."""
        return self.tensors[i].dim() > 0 and i not in self.shared

    def shapes(self, count: int, sizes: Sizes = AS_GIVEN) -> Iterator[tuple[int, ...]]:
        """The shapes of all inputs for `count` samples, with axes of other `sizes`."""
        for i, x in enumerate(self.tensors):
            own = [sizes.get((i, axis), size) for axis, size in enumerate(x.shape)]
            yield tuple([count, *own[1:]] if self.is_of_samples(i) else own)

    def without_data(self, count: int, sizes: Sizes = AS_GIVEN) -> list[torch.Tensor]:
        """ExampleInputs like these for `count` samples, without values.

        Args:
            count: number of samples.
            sizes: of axes that are to be of another size.
        """
        shapes = self.shapes(count, sizes)
        return [torch.empty(shape, dtype=x.dtype, device="meta") for shape, x in zip(shapes, self.tensors, strict=True)]

    def first(self, count: int) -> ExampleInputs:
        """At most `count` samples, the first ones."""
        return self._of_each(lambda x: x[:count])

    def repeated(self, count: int) -> ExampleInputs:
        """The first sample, `count` times."""
        return self._of_each(lambda x: x[:1].expand(count, *x.shape[1:]).clone())

    def _of_each(self, take: Callable[[torch.Tensor], torch.Tensor]) -> ExampleInputs:
        found = (take(x) if self.is_of_samples(i) else x for i, x in enumerate(self.tensors))
        return ExampleInputs(tuple(found), self.shared)


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
    if inputs.is_of_samples(i):
        return Node(name, "input", attrs=attrs, type=TensorType(dtype, (BATCH, *shape[1:])))
    held, first = f"{name}_{SHARED_VALUE}", {path.partition(".")[0] for path in (*taken, *params)}
    while held in first:
        held += "_"
    params[held] = Parameter(tensor.clone(), "constant", trainable=False)
    decided = {DECIDED: tuple(range(len(shape)))} if shape else {}
    return Node(name, "input", (), {SHARED_VALUE: held}, {**attrs, **decided}, TensorType(dtype, shape))


Rows = Callable[[Sequence[torch.Tensor]], Sequence[int]]
"""How many entries what a network returns has along the first axes, of its outputs in order."""


def shared_among(
    name: str, tensors: Sequence[torch.Tensor], names: Sequence[str], outputs: Sequence[int], rows: Rows
) -> frozenset[int]:
    """Numbers of the inputs that all samples share, found by running the network with another number of samples.

    Those of samples are as long as one another; a network runs for more of them, and gives as many more. Where all inputs are as
    long, all are of samples, unless the network does not run so, as where a mask has as many rows as there are samples.

    Args:
        name: of the network.
        tensors: example inputs.
        names: of theirs.
        outputs: what `rows` gives for the example.
        rows: runs the network, and raises what it raises.

    Raises:
        UnsupportedModelError: no inputs can be those of samples, or several can.
    """
    lengths = {i: len(x) for i, x in enumerate(tensors) if x.dim()}
    alike = len(set(lengths.values())) < 2
    if len(lengths) < 2 or (alike and _runs(tensors, frozenset(lengths), rows) is not None):
        return frozenset()
    for found in _candidates(lengths):
        fitting = [samples for samples in found if _grow(outputs, _runs(tensors, samples, rows), tensors, samples)]
        if len(fitting) == 1:
            return frozenset(lengths) - fitting[0]
        if fitting:
            one, other = ("', '".join(names[i] for i in sorted(samples)) for samples in fitting[:2])
            raise UnsupportedModelError(
                f"'{one}' of '{name}' may be its inputs that have an entry for each sample, and so may '{other}': it runs for more "
                f"of either; give as many samples of all, and let what they share have another length"
            )
    if alike:
        return frozenset()
    told = ", ".join(f"'{names[i]}' {count}" for i, count in lengths.items())
    raise UnsupportedModelError(
        f"the inputs of '{name}' have different lengths ({told}), and with more entries along the first axis of none of them does "
        f"it run, and give as much more: samples lie along that axis of each input that has them; wrap the network in a module "
        f"whose forward takes and gives them so"
    )


def _candidates(lengths: Mapping[int, int]) -> Iterator[list[frozenset[int]]]:
    """Sets of inputs that may be those of samples: all of a length, then fewer."""
    groups: dict[int, list[int]] = {}
    for i, length in lengths.items():
        groups.setdefault(length, []).append(i)
    most = max(map(len, groups.values()))
    for size in range(most, 0, -1):
        yield [
            frozenset(some)
            for group in groups.values()
            if size == len(group) or size < len(group) <= _TRIED
            for some in combinations(group, size)
        ]


def _runs(tensors: Sequence[torch.Tensor], samples: frozenset[int], rows: Rows) -> Sequence[int] | None:
    """What `rows` gives for another number of samples; None where the network does not run so."""
    given = [_longer(x, tensors) if i in samples else x for i, x in enumerate(tensors)]
    try:
        return rows(given)
    except Exception:  # whatever the user's own module raises for such inputs
        return None


def _longer(x: torch.Tensor, beside: Sequence[torch.Tensor]) -> torch.Tensor:
    """More samples, as many as no axis of the inputs has entries."""
    sizes = {size for other in beside for size in other.shape}
    count = next(n for n in range(len(x) + 1, len(x) + 2 + len(sizes)) if n not in sizes)
    return x[torch.arange(count, device=x.device) % len(x)]


def _grow(
    before: Sequence[int], after: Sequence[int] | None, tensors: Sequence[torch.Tensor], samples: frozenset[int]
) -> bool:
    """Whether some output has as many more entries along its first axis as there are more samples."""
    if after is None or len(before) != len(after):
        return False
    x = tensors[min(samples)]
    old, new = len(x), len(_longer(x, tensors))
    return any(a % old == 0 and b == a // old * new for a, b in zip(before, after, strict=True))
