"""Whether two graphs compute the same: a float64 comparison on a random probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from gngraph.errors import IRError
from gngraph.ir import Graph
from gngraph.ir.casting import cast
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import lower


def outputs64(graph: Graph, probe: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Every output tensor of `graph` in eval mode, computed in float64 on the CPU.

    Raises:
        IRError: the network does not run in float64, as where a forward reads bits of floating-point numbers.
    """
    inputs = [x.to(device="cpu", dtype=cast(x.dtype, torch.float64)) for x in probe]
    try:
        with torch.no_grad():
            result = lower(graph.to(torch.float64, "cpu")).module(*inputs)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        reason = str(error).partition(chr(10))[0].rstrip(".")
        raise IRError(
            f"network '{graph.name}' does not run in float64 on random inputs, by which rewrites are proved: {reason}"
        ) from error
    return list(_tensors(result))


LEAST_SIZE = 1e-3
"""Least size that a difference is taken relative to: what normalisation and a mean cancel is nothing but rounding, of which no
digit is kept, while a wrong output is as wrong as it is large."""


def relative_error(a: Graph, b: Graph, probe: Sequence[torch.Tensor] | None = None) -> float:
    """How far `b` is from computing what `a` does: the largest |a - b| / max |a| over the outputs, in float64.

    Outputs below `LEAST_SIZE` are compared as if they were as large.

    Cost: one forward pass of each graph on the CPU, and a float64 copy of its parameters.

    Args:
        a: what is right.
        b: what is compared with it.
        probe: one tensor a network input; default `probe_of(a)`.

    Returns:
        0.0 for bit-identical outputs; infinity when the outputs differ in number or shape, or are not finite.
    """
    probe = probe_of(a) if probe is None else probe
    return error_between(outputs64(a, probe), outputs64(b, probe))


def error_between(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """`relative_error` of outputs that `outputs64` gave.

    Args:
        left: what is right.
        right: what is compared with it.
    """
    if [x.shape for x in left] != [x.shape for x in right]:
        return float("inf")
    return max((_error(x, y) for x, y in zip(left, right, strict=True)), default=0.0)


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.numel() == 0:
        return 0.0
    difference = float((a - b).abs().max())
    if difference == 0.0:
        return 0.0
    error = difference / max(float(a.abs().max()), LEAST_SIZE)
    return error if error == error else float("inf")  # not a number: nothing can be vouched for


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value if value.is_floating_point() or value.is_complex() else value.to(torch.float64)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
