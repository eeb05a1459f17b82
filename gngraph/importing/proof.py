"""The proof of an import: module and graph compute the same in eval mode, and train the same.

In eval mode both run on the example, and agree bit for bit. That they train the same, and compute the same for other samples, is
read off two tapes (`Tape`): where all that comes out has the same numbers, it is the same for every data. That covers the
outputs, the buffers after a step, and the gradients of parameters and inputs of a random projection of the outputs. Where tapes
differ, or cannot be made, numbers decide: the same in float64, on the example and on random samples, under one seed. Where the
module takes other sizes than the example's, both are compared there too; an axis along which they differ is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.copies import copy_of, on_shared_tensors
from gngraph.importing.examples import Example
from gngraph.importing.freeing import return_free_memory
from gngraph.importing.imported import Imported
from gngraph.importing.inputs import ExampleInputs, InputAxis, told_by_samples
from gngraph.importing.other_sizes import by_numbers, unlike_axes
from gngraph.importing.outputs import chosen, taken
from gngraph.importing.reasons import reason_of
from gngraph.importing.recorded_types import run_checked
from gngraph.importing.same_calls import same_calls
from gngraph.importing.same_numbers import compare_numbers
from gngraph.importing.shapes import tensors_in
from gngraph.ir import Graph
from gngraph.ir.types import dtype_name


class NotRunningError(UnsupportedModelError):
    """A module does not run on its example inputs."""


@dataclass(frozen=True)
class Expected:
    """What a module returns in eval mode.

    Attributes:
        outputs: in order.
        drawn: whether it drew random numbers on the way.
    """

    outputs: list[torch.Tensor]
    drawn: bool


def expected_of(module: nn.Module, example: Example, output: str | None) -> tuple[Expected, Example]:
    """Run a copy of a module in eval mode, and say which part of what it returns is kept, and which inputs all samples share.

    Args:
        module: it may change its tensors, as embeddings with a largest norm do.
        example: how it is called.
        output: the part that the user names.

    Raises:
        UnsupportedModelError: it does not run so, or returns no such part, or its inputs cannot be told apart.
    """
    twin, draws, held = on_shared_tensors(module), torch.get_rng_state(), _held(module)
    try:
        result = _run_once(twin.train(False), example)
    except Exception as error:
        shapes = ", ".join(f"{tuple(x.shape)}, {dtype_name(x.dtype)}" for x in example.tensors)
        raise NotRunningError(
            f"'{type(module).__name__}' does not run on an input of shape {shapes}: {reason_of(error)}; "
            f"give an input of the right shape and type"
        ) from error
    made = next((name for name in _held(twin) if name not in held), None)
    if made is not None:
        raise UnsupportedModelError(
            f"'{type(module).__name__}' makes '{made}' when it runs for the first time; run it once, and import it then"
        )
    drawn = not torch.equal(draws, torch.get_rng_state())
    example = replace(example, output=chosen(type(module).__name__, result, output))
    kept = taken(result, example.output)
    outputs, example = [x.detach() for x in tensors_in(kept)], replace(example, whole=kept is result)
    del result, kept
    if example.inputs.axes == ExampleInputs.batch_first(example.tensors).axes:
        example = _told_by_samples(twin, example, outputs)
    return_free_memory()
    return Expected(outputs, drawn), example


def in_train_mode(module: nn.Module, example: Example) -> Exception | None:
    """What a copy of a module raises in train mode, as one does whose heads for training take no input that small.

    Args:
        module: it may change its tensors.
        example: how it is called.
    """
    try:
        _run_once(copy_of(module).train(), example)
    except Exception as error:  # whatever the user's own module raises
        return error
    return None


def _held(module: nn.Module) -> list[str]:
    """The names of what a module consists of."""
    tables = module.named_modules(), module.named_parameters(), module.named_buffers()
    return [name for table in tables for name, _ in table]


def _told_by_samples(module: nn.Module, example: Example, outputs: Sequence[torch.Tensor]) -> Example:
    """An example with the axes of samples, of a module in eval mode and what it returns for it."""

    def run(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        found = _run_once(module, replace(example, tensors=tuple(values)))
        return [x.detach() for x in tensors_in(taken(found, example.output))]

    inputs = told_by_samples(example.inputs, example.names, type(module).__name__, outputs, run)
    return replace(example, axes=inputs.axes)


def _run_once(module: nn.Module, example: Example) -> Any:
    """Without gradients, unless the forward asks for them; it may work in place on its inputs."""

    def run() -> Any:
        args, kwargs = example.filled([x.clone() for x in example.tensors])
        return module(*args, **kwargs)

    try:
        with torch.no_grad():
            return run()
    except RuntimeError:
        return run()


def prove(claim: Imported, expected: Expected) -> frozenset[InputAxis]:
    """Hold a graph against the module that it was made of; the axes along which it holds for the example's size alone.

    Args:
        claim: both.
        expected: what the module returns for the example.

    Raises:
        UnsupportedModelError: they do not agree; the message says in what, and why if that is known.
    """
    lowered = _check_outputs(claim, expected)
    if claim.alone:
        _check_alone(claim)
    if claim.by_gradients:
        compare_numbers(claim)
    try:
        unlike = same_calls(claim, lowered)
    except UnsupportedModelError:
        raise
    except Exception:  # whatever an op raises that cannot run without data, be it in the user's own Python
        unlike = None
    if unlike is None:
        compare_numbers(claim)
        unlike, _ = unlike_axes(claim, by_numbers(claim))
    return unlike


def _check_alone(claim: Imported) -> None:
    """With one sample, in both modes, where the forward asks whether there is one."""
    try:
        compare_numbers(replace(claim, inputs=claim.inputs.first(1)))
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"'{claim.graph.name}' decides by the number of samples, which a graph leaves open, and one sample does not take what "
            f"several take ({error}); let its forward do the same for every number of samples"
        ) from error


def _check_outputs(claim: Imported, expected: Expected) -> nn.Module:
    """In eval mode, on the example, bit for bit; the module that the graph is lowered to."""
    name = claim.graph.name
    with torch.no_grad():
        lowered, result = _run_graph(claim.graph, claim.inputs)
        given = list(tensors_in(result))
    if len(given) != len(expected.outputs):
        raise UnsupportedModelError(
            f"the traced graph of '{name}' returns {len(given)} tensors where the module returns {len(expected.outputs)}"
        )
    for a, b in zip(given, expected.outputs, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            if expected.drawn:
                raise UnsupportedModelError(
                    f"'{name}' draws random numbers in eval mode, where every run must give the same outputs; draw only while "
                    f"training (if self.training)"
                )
            if a.shape != b.shape and claim.inputs.count == 1:
                raise UnsupportedModelError(
                    f"'{name}' gives {tuple(b.shape)} for one sample where several have {tuple(a.shape)} each, as behind "
                    f"squeeze() without an axis; give an example of two samples, or let it name the axis"
                )
            why = "; ".join(claim.suspects) or "this is a defect of gngraph or a forward with side effects"
            raise UnsupportedModelError(
                f"the traced graph of '{name}' does not reproduce the module's outputs bit for bit; {why}"
            )
    return lowered


def _run_graph(graph: Graph, inputs: ExampleInputs) -> tuple[nn.Module, Any]:
    try:
        return run_checked(graph, inputs)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"'{graph.name}' was traced, but the traced graph does not run: {reason_of(error)}; it uses an op that gngraph "
            f"cannot carry through yet"
        ) from error
