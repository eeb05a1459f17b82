"""Example inputs by samples: which of them have an entry for each, and which all samples share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
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

_LAST_BITS = 1e-6
"""Of the largest number of an output: by less it does not depend on a sample."""

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


Returning = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""What a network returns, in order."""


def told_by_samples(
    given: ExampleInputs, names: Sequence[str], name: str, outputs: Sequence[torch.Tensor], run: Returning
) -> ExampleInputs:
    """Example inputs with their axes of samples, found by running the network with more samples, and with others among them.

    Those of samples have as many entries as one another; a network runs for more of them, and gives as many more, each of which
    depends on one sample alone. Tokens depend on each other. So samples lie along the first axes of all inputs where outputs do not
    depend on each other there, else along all the second ones, behind tokens, where it is so; else along first or second axes of
    some inputs, of which all samples share the others. Where outputs depend on each other everywhere, as those of a batch whose
    statistics norms go by, their number alone tells. Cost: three runs, and some more where it is not the first axes.

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
    first = _tried(given, outputs, run, 0) if alike else _Trial()
    if first.apart or not lengths:
        return given
    behind = _along_second(given)
    if behind is not None and _tried(behind, outputs, run, 1).apart:
        others = (own for some in _candidates(given, 0) for own in some if _tried(own, outputs, run, 0).apart)
        if len(list(islice(others, 2))) < 2:
            return behind
    if len(lengths) < 2:
        return given
    found = given if first.runs else None
    for last in (0, 1):
        for some in _candidates(given, last):
            if first.grows:  # what there is as much of as of all others is not shared
                some = [own for own in some if own.axes.count(None) == given.axes.count(None)]
            trials = [(own, _tried(own, outputs, run, last)) for own in some]
            fitting = [own for own, trial in trials if trial.grows]
            apart = [own for own, trial in trials if trial.apart]
            if len(apart) == 1:
                return apart[0]
            if found is None and len(fitting) > 1:
                one, other = (_named(own, names) for own in (apart or fitting)[:2])
                raise UnsupportedModelError(
                    f"{one} of '{name}' may be its inputs that have an entry for each sample, and so may {other}: it runs for more "
                    f"of either; give as many samples of all, and let what they share have another length"
                )
            found = found or next(iter(fitting), None)
    if found is not None:
        return found
    told = ", ".join(f"'{names[i]}' {count}" for i, count in lengths.items())
    raise UnsupportedModelError(
        f"the inputs of '{name}' have different lengths ({told}), and with more entries along the first or second axes of none of "
        f"them does it run, and give as much more: samples lie along one of these of each input that has them; wrap the network in "
        f"a module whose forward takes and gives them so"
    )


def _along_second(given: ExampleInputs) -> ExampleInputs | None:
    """Inputs that all have the samples along their second axes; None where they cannot."""
    sizes = {x.shape[1] if x.dim() > 1 else None for x in given.tensors if x.dim()}
    if len(sizes) != 1 or None in sizes:
        return None
    return ExampleInputs(given.tensors, tuple(1 if x.dim() else None for x in given.tensors))


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


@dataclass(frozen=True)
class _Trial:
    """What a network does with more samples.

    Attributes:
        runs: whether it runs.
        grows: whether some output has as many more entries.
        apart: whether each of these depends on one sample alone.
    """

    runs: bool = False
    grows: bool = False
    apart: bool = False


def _tried(inputs: ExampleInputs, before: Sequence[torch.Tensor], run: Returning, last: int) -> _Trial:
    """How a network takes more samples, told by outputs that grow along an axis up to the `last`."""
    longer = _longer(inputs)
    after = _returned(run, longer)
    if after is None:
        return _Trial()
    axes = _growing(before, after, inputs.count, longer.count, last)
    if not axes:
        return _Trial(runs=True)
    middle = [longer.count // 2]
    others = [i for i in range(longer.count) if i not in middle]

    def kept(rows: Sequence[int], gone: Sequence[int]) -> bool:
        """Whether outputs of some samples stay where others change."""
        changed = _returned(run, _with_others(longer, gone))
        return changed is not None and all(
            _same(*(_of_samples(x[i], axis, longer.count, rows) for x in (after, changed))) for i, axis in axes.items()
        )

    return _Trial(True, True, kept(others, middle) and kept(middle, others))  # all may depend on the first alone


def _returned(run: Returning, inputs: ExampleInputs) -> Sequence[torch.Tensor] | None:
    """What `run` gives; None where the network does not run so."""
    try:
        return run(inputs.tensors)
    except Exception:  # whatever the user's own module raises for such inputs
        return None


def _longer(inputs: ExampleInputs) -> ExampleInputs:
    """More samples, three at least, as many as no axis of the inputs has entries."""
    sizes, old = {size for x in inputs.tensors for size in x.shape}, inputs.count
    count = next(n for n in range(max(3, old + 1), old + 4 + len(sizes)) if n not in sizes)
    return inputs.rows([i % old for i in range(count)])


def _with_others(inputs: ExampleInputs, rows: Sequence[int]) -> ExampleInputs:
    """The same samples but for some, of other values."""
    generator, found = torch.Generator().manual_seed(0), list[torch.Tensor]()
    for x, axis in zip(inputs.tensors, inputs.axes, strict=True):
        if axis is not None:
            samples, x = x.unbind(axis), x.clone()
            for row in rows:
                x.select(axis, row).copy_(_another(samples, row, generator))
        found.append(x)
    return ExampleInputs(tuple(found), inputs.axes)


def _another(samples: Sequence[torch.Tensor], row: int, generator: torch.Generator) -> torch.Tensor:
    """Another sample than that of a row, of the example as far as may be: not all numbers need be words that a network has."""
    own = samples[row]
    for other in samples:
        if not torch.equal(other, own):
            return other
    if own.is_floating_point() or own.is_complex():
        return own + torch.randn(own.shape, generator=generator, dtype=torch.float64).to(own)
    turned = own.flatten().roll(1).view_as(own)
    if not torch.equal(turned, own):
        return turned
    return ~own if own.dtype is torch.bool else own + 1


def _growing(
    before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], old: int, new: int, last: int
) -> dict[int, int]:
    """Number of each output that has as many more entries as there are more samples -> the axis, up to the `last`."""
    if [x.dim() for x in before] != [x.dim() for x in after]:
        return {}
    found: dict[int, int] = {}
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        for axis, (was, now) in enumerate(zip(a.shape[: last + 1], b.shape, strict=False)):
            if was % old == 0 and now == was // old * new:
                found.setdefault(i, axis)
    return found


def _of_samples(x: torch.Tensor, axis: int, count: int, rows: Sequence[int]) -> torch.Tensor:
    """What an output has of some of the samples, of each as many entries along the axis."""
    found = torch.unflatten(x, axis, (count, -1)).index_select(axis, torch.tensor(rows, device=x.device))
    return found if found.is_floating_point() or found.is_complex() else found.double()


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether numbers agree but for the last bits, in which they may differ where rows are computed in another order."""
    finite = a[a.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=_LAST_BITS * largest, equal_nan=True)
