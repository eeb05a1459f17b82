"""Whether module and graph agree at other sizes than those of the example; the axes where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO

import torch
from torch import nn

from gngraph.importing.copies import copy_of
from gngraph.importing.imported import Imported
from gngraph.importing.inputs import ExampleInputs, InputAxis, Sizes
from gngraph.importing.shapes import tensors_in
from gngraph.lowering.to_torch import to_torch
from gngraph.ops.foreign import DECIDED

Agreement = Callable[[Sizes, bool], bool | None]
"""Whether both compute the same for inputs of these sizes, in train mode or not; None where the module runs for none such."""

SMALL = 100
"""Most nodes of a graph that is compared at other sizes in train mode too; a larger one is in eval mode alone, to save time."""
_TOLERANCE = 1e-5
"""Largest difference that other kernels leave in float32, relative to the largest entry."""


def unlike_axes(claim: Imported, agree: Agreement) -> tuple[frozenset[InputAxis], bool]:
    """The free axes along which the graph computes something else than the module, and whether any other size was run.

    Args:
        claim: module and graph.
        agree: holds them against each other.
    """
    found: set[InputAxis] = set()
    ran = False
    modes = (False, True) if len(claim.graph.nodes) <= SMALL else (False,)
    with redirect_stderr(StringIO()):  # where torch.fx prints what it raises, for sizes that a network is not made for
        for axes in _groups(claim):
            for sizes in _other_sizes(claim.inputs.tensors, axes):
                evaluated = agree(sizes, False)
                if evaluated is None:
                    continue
                ran = True
                if not evaluated or any(agree(sizes, training) is False for training in modes[1:]):
                    single = {
                        axis for axis in axes if False in [agree({axis: sizes[axis]}, training) for training in modes]
                    }
                    found |= single or set(axes)
                break
    return frozenset(found), ran


def _groups(claim: Imported) -> Iterator[list[InputAxis]]:
    """Axes that are changed together: those of an image or volume, and each other one alone; none that is marked."""
    for i, (name, x) in enumerate(zip(claim.graph.inputs, claim.inputs.tensors, strict=False)):
        marked = claim.graph.nodes[name].attrs.get(DECIDED, ())
        free = [axis for axis in claim.inputs.others(i) if axis not in marked and x.shape[axis]]
        spatial = [axis for axis in free if x.dim() > 3 and axis > 1]
        for axes in ([spatial] if spatial else []) + [[axis] for axis in free if axis not in spatial]:
            yield [(i, axis) for axis in axes]


def _other_sizes(inputs: Sequence[torch.Tensor], axes: Sequence[InputAxis]) -> Iterator[Sizes]:
    """Sizes to try: an entry more, multiples for what is halved, and fewer for tables that end; no two axes alike."""
    old = [inputs[i].shape[axis] for i, axis in axes]
    yield {axis: n + 1 + place for place, (axis, n) in enumerate(zip(axes, old, strict=True))}
    yield {axis: n * (2 + place) for place, (axis, n) in enumerate(zip(axes, old, strict=True))}
    if all(n > 1 for n in old):
        yield {axis: n // 2 for axis, n in zip(axes, old, strict=True)}


def by_numbers(claim: Imported) -> Agreement:
    """Agreement of outputs that are computed, on random samples, up to rounding.

    Args:
        claim: module and graph.
    """

    def agree(sizes: Sizes, training: bool) -> bool | None:
        inputs = random_inputs(claim.inputs, sizes)
        try:
            expected = _outputs(copy_of(claim.module), inputs, training)
        except Exception:  # whatever the user's own module raises for such inputs
            return None
        if training:
            expected = list(tensors_in(claim.part(expected)))
        try:
            found = _outputs(to_torch(claim.graph), inputs, training)
        except Exception:  # whatever an op raises for values of another shape than it had
            return False
        wanted, given = list(tensors_in(expected)), list(tensors_in(found))
        return len(wanted) == len(given) and all(map(close, wanted, given))

    return agree


def random_inputs(inputs: ExampleInputs, sizes: Sizes) -> list[torch.Tensor]:
    """Three samples of random numbers; of whole numbers, some of the example's.

    Args:
        inputs: the example.
        sizes: those that differ from the example's.
    """
    generator, made = torch.Generator().manual_seed(0), []
    for shape, x in zip(inputs.shapes(3, sizes), inputs.tensors, strict=True):
        if x.is_floating_point() or x.is_complex():
            made.append(torch.randn(shape, generator=generator, dtype=x.dtype))
        else:
            made.append(x.reshape(-1)[torch.randint(x.numel(), shape, generator=generator)])
    return made


def _outputs(network: nn.Module, inputs: Sequence[torch.Tensor], training: bool) -> object:
    network.train(training)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(*(x.clone() for x in inputs))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors, `a` and `b`, are the same up to what other kernels leave."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    size = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=_TOLERANCE * size, equal_nan=True)
