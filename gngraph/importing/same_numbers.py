"""Whether module and graph compute the same numbers, where they do not make the same calls: in float64, under one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.copies import copy_of
from gngraph.importing.imported import (
    Held,
    Imported,
    Outcome,
    accumulated,
    changes_by_itself,
    does_not_train,
    function_of_its_own,
    functions_behind,
    step,
)
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.kept_tensors import KeptTensors, refuse_read_later
from gngraph.importing.norm_counters import COUNTER_NAME
from gngraph.importing.python_state import HeldInPython
from gngraph.importing.reasons import reason_of
from gngraph.ir import Graph
from gngraph.ir.casting import cast
from gngraph.lowering.to_torch import reading_inputs

ROUNDING = 1e-7
"""Largest difference that two orders of the same arithmetic may leave in float64, relative to the largest entry."""
_COARSE = 1e-3
"""The same for a network that runs in its own dtype alone."""
_FLOOR = 1e-6
"""Least size that a gradient is taken relative to, as a share of the largest of all: what cancels is rounding and nothing else."""
_MOVED = 0.01
"""How far parameters of zeros are moved, so that they hide nothing."""
_SAMPLES = 4
"""Samples of the example that are run with gradients."""
_RUN_AGAIN = (
    "a norm counts a batch twice, as under torch.utils.checkpoint, whose backward runs it again; import the network without "
    "checkpoints, which only save memory"
)
_SEED = 0
_WAYS = ((True, "all"), (True, "parameters"), (True, "none"), (False, "none"))
"""Whether in train mode, and of what gradients are asked for: of less only where the module has none of more, or asks for them."""
_MORE_WAYS = ((False, "all"),)
"""Ways in which a module that asks for gradients is run too."""


def compare_numbers(claim: Imported) -> None:
    """Run both in both modes, on the example and on random samples; what they return, and in train mode gradients and buffers.

    Raises:
        UnsupportedModelError: they differ, or the module does not run in train mode.
    """
    for dtype, tolerance in ((torch.float64, ROUNDING), (None, _COARSE)):
        errors = _compared(claim, dtype, tolerance)
        if not errors:
            return
    raise UnsupportedModelError(does_not_train(claim.graph.name, reason_of(errors[0])))


def _compared(claim: Imported, dtype: torch.dtype | None, tolerance: float) -> list[Exception]:
    """Compare as far as the module runs; what it raises where it runs in train mode on no probe."""
    errors: list[Exception] = []
    ran = False
    graph = claim.graph if dtype is None else _with_parameters_as(claim, dtype)
    for inputs, drawn in zip(_probes(claim.inputs, dtype), ({}, _drawn(graph)), strict=True):
        for training, gradients in (*_WAYS, *(_MORE_WAYS if claim.by_gradients else ())):
            if training and gradients != "all" and ran and not claim.by_gradients:
                continue
            module = _in(copy_of(claim.module), dtype)
            with torch.no_grad():
                for name, tensor in drawn.items():
                    module.get_parameter(name).copy_(tensor)
            tensors = KeptTensors(module)
            try:
                expected = _run(module, inputs, claim.part, training=training, gradients=gradients)
                kept = HeldInPython(module)
                again = _run(module, inputs, claim.part, training=training, gradients=gradients)
            except Exception as error:  # whatever the user's own module raises for such inputs
                errors += [error] if training else []
                continue
            if gradients == "parameters":  # reentrant checkpoints give none where none of their inputs has one
                expected = replace(
                    expected, gradients={name: x for name, x in expected.gradients.items() if x is not None}
                )
            ran = ran or training
            try:
                with redirect_stderr(StringIO()):  # where torch.fx prints what it raises
                    found = _run(
                        reading_inputs(graph.with_params(drawn)), inputs, None, training=training, gradients=gradients
                    )
            except Exception as error:
                _refuse(claim, f"does not run in {_mode(training)} mode, where the module does ({reason_of(error)})")
            what = _difference(claim, expected, found, tolerance)
            if what is not None:
                _refuse(claim, f"has another {what} in {_mode(training)} mode", expected.outputs)
            if _difference(claim, replace(expected, state={}), again, tolerance) is not None:
                raise UnsupportedModelError(changes_by_itself(claim.graph.name))
            if training:
                kept.check(claim.graph.name)
                if tensors.changed:
                    refuse_read_later(claim)
    return [] if ran else errors


def _with_parameters_as(claim: Imported, dtype: torch.dtype) -> Graph:
    """A graph with other parameters, as a module's `to` makes one: what its forward makes by itself and casts to stays."""
    held = Held(claim.module).tensors()
    own = {name: p.data for name, p in claim.graph.params.items() if p.kind != "constant" or name in held}
    return claim.graph.with_params({name: tensor.to(cast(tensor.dtype, dtype)) for name, tensor in own.items()})


def _in(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A module in a dtype, in which complex numbers stay complex, as a module's `to` leaves none of them."""
    return module if dtype is None else module._apply(lambda tensor: tensor.to(cast(tensor.dtype, dtype)))  # type: ignore[no-untyped-call]


def _mode(training: bool) -> str:
    return "train" if training else "eval"


def _refuse(claim: Imported, what: str, outputs: Sequence[torch.Tensor] = ()) -> None:
    again = [_RUN_AGAIN] if f".{COUNTER_NAME}'" in what else []
    suspects = claim.suspects or [function_of_its_own(name) for name in functions_behind(outputs)] or again
    why = "; ".join(suspects) or (
        "something in its forward does not survive being traced; rewrite that part with torch's functions, or register it as an "
        "op (gngraph.ops.register)"
    )
    raise UnsupportedModelError(f"the traced graph of '{claim.graph.name}' {what}: {why}")


def _probes(inputs: ExampleInputs, dtype: torch.dtype | None) -> Iterator[list[torch.Tensor]]:
    """The example's first samples, and random samples of another number; of whole numbers, those of the example shuffled."""

    def fitted(x: torch.Tensor) -> torch.Tensor:
        return x.clone() if dtype is None else x.to(cast(x.dtype, dtype), copy=True)

    yield [fitted(x) for x in inputs.first(_SAMPLES).tensors]
    generator = torch.Generator().manual_seed(_SEED)
    probe = []
    for shape, x in zip(inputs.shapes(3), inputs.tensors, strict=True):
        if x.is_floating_point() or x.is_complex():
            probe.append(torch.randn(shape, generator=generator, dtype=cast(x.dtype, dtype or x.dtype)))
        else:
            chosen = torch.randint(x.numel(), shape, generator=generator)
            probe.append(x.reshape(-1)[chosen])
    yield probe


def _drawn(graph: Graph) -> dict[str, torch.Tensor]:
    """Parameters that are a little different, so that no zero among them hides what lies behind it."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = {}
    for name, parameter in graph.params.items():
        held = parameter.data
        if parameter.kind == "parameter" and (held.is_floating_point() or held.is_complex()) and held.numel():
            noise = torch.randn(held.shape, generator=generator, dtype=cast(held.dtype, torch.float64)).to(held)
            drawn[name] = held + noise * (0.1 * held.abs().mean() + _MOVED)
    return drawn


def _run(
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    part: Callable[[Any], Any] | None,
    *,
    training: bool,
    gradients: str,
) -> Outcome:
    module.train(training)
    torch.manual_seed(_SEED)
    generator = torch.Generator().manual_seed(_SEED)

    def project(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=cast(x.dtype, torch.float64)).to(x.dtype)

    with torch.set_grad_enabled(gradients != "none"):
        found = step(Held(module), inputs, project, part, of_inputs=gradients == "all", differentiate=accumulated)
    return replace(found, state={name: tensor.clone() for name, tensor in found.state.items()})


def _difference(claim: Imported, expected: Outcome, found: Outcome, tolerance: float) -> str | None:
    """In what two steps differ, in words."""
    if len(expected.outputs) != len(found.outputs):
        return f"number of outputs ({len(found.outputs)} for {len(expected.outputs)})"
    for number, (a, b) in enumerate(zip(expected.outputs, found.outputs, strict=True)):
        if not _close(a, b, tolerance, 0.0):
            return f"output (number {number})"
    sizes = [float(x.abs().max()) for x in expected.gradients.values() if x is not None and x.numel()]
    floor = _FLOOR * max(sizes, default=0.0)
    for name, a in expected.gradients.items():
        if not _close(a, found.gradients.get(name), tolerance, floor):
            return f"gradient of '{name}'"
    for name, a in expected.state.items():
        if claim.holds(name) and not _close(a, found.state.get(name), tolerance, 0.0):
            return f"value of '{name}' after a step"
    return None


def _close(a: Any, b: Any, tolerance: float, floor: float) -> bool:
    if a is None or b is None:
        return all(x is None or not x.any() for x in (a, b))
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    finite = a[a.isfinite()]
    size = max(float(finite.detach().abs().max()) if finite.numel() else 0.0, floor)
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * size, equal_nan=True)
