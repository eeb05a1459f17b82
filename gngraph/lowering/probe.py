"""Random inputs that a network runs on: numbers, and whole numbers that its tables have entries for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from gngraph.errors import IRError
from gngraph.ir import Graph, Node, TensorType
from gngraph.ir.casting import cast
from gngraph.ir.inputs import values_of_shared
from gngraph.ir.types import dtype_of
from gngraph.lowering.to_torch import run
from gngraph.ops import lookup, operands_of

PROBE_SAMPLES = 2
"""Samples of a probe: two, so that a mix-up of the batch axis shows."""

_FROM, _TO = "least", "most"
"""Attributes of an input of whole numbers: the range of the example that the network was imported with."""

_Range = tuple[int, int]
_NONE: _Range = (0, 0)


def probe_of(
    graph: Graph, seed: int = 0, samples: int = PROBE_SAMPLES, dtype: torch.dtype | None = torch.float64
) -> tuple[torch.Tensor, ...]:
    """Random inputs for `graph` on the CPU, one a network input.

    Floating-point inputs are standard normal. Whole numbers are tokens: those that the tables they are looked up in have rows for,
    else those of the range of the example. Where the network does not run on them, or gives what is not finite, they come from
    the example's range, and are zeros in the end, which every table and mask takes. What all samples share has the values that the
    graph holds. Cost: a forward pass where there are whole numbers.

    Args:
        graph: on any device.
        seed: of the numbers.
        samples: axis 0 of the inputs.
        dtype: of floating-point inputs; None: of each its own.

    Raises:
        IRError: an input is no tensor.
    """
    ranges = [list(dict.fromkeys((*_ranges(graph, name), _NONE))) for name in graph.inputs]
    tried = [tuple(chosen) for chosen in zip_longest(*ranges)] or [()]
    drawn: tuple[torch.Tensor, ...] = ()
    for number, chosen in enumerate(tried):
        between = [_NONE if given is None else given for given in chosen]
        drawn = _drawn(graph, between, seed, samples, dtype)
        last = number + 1 == len(tried)
        if last or all(not _is_whole(graph.nodes[name]) for name in graph.inputs) or _runs(graph, drawn):
            break
    return drawn


def _drawn(
    graph: Graph, ranges: list[_Range], seed: int, samples: int, dtype: torch.dtype | None
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    probe, shared = [], values_of_shared(graph)
    for name, (least, most) in zip(graph.inputs, ranges, strict=True):
        type_ = _type_of(graph.nodes[name])
        held = shared.get(name)
        if held is not None and not graph.params[held].data.is_meta:
            value = graph.params[held].data.detach().cpu()
            probe.append(value if dtype is None else value.to(cast(value.dtype, dtype)))
            continue
        shape = [samples if isinstance(size, str) else size for size in type_.shape]
        own = dtype_of(type_.dtype)
        if own.is_floating_point:
            probe.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype or own))
        elif own.is_complex:
            numbers = torch.randn(shape, generator=generator, dtype=torch.complex128)
            probe.append(numbers.to(own if dtype is None else cast(own, dtype)))
        else:
            probe.append(torch.randint(least, most + 1, shape, generator=generator).to(own))
    return tuple(probe)


def _type_of(node: Node) -> TensorType:
    if not isinstance(node.type, TensorType):
        raise IRError(f"input '{node.name}' has type '{node.type}'; an input must be a tensor")
    return node.type


def _is_whole(node: Node) -> bool:
    dtype = dtype_of(_type_of(node).dtype)
    return not (dtype.is_floating_point or dtype.is_complex)


def _runs(graph: Graph, probe: tuple[torch.Tensor, ...]) -> bool:
    """Whether a network gives finite numbers for a probe."""
    own = [dtype_of(_type_of(graph.nodes[name]).dtype) for name in graph.inputs]
    try:
        outputs = run(graph.to(device="cpu"), *(x.to(dtype) for x, dtype in zip(probe, own, strict=True)))
    except Exception:  # whatever an op raises for numbers that are not meant for it
        return False
    return all(bool(x.isfinite().all()) for x in tree_leaves(outputs) if isinstance(x, torch.Tensor))


def _ranges(graph: Graph, name: str) -> Iterator[_Range]:
    """Ranges of whole numbers for an input, the most telling first."""
    node = graph.nodes[name]
    if not _is_whole(node):
        return
    rows = _rows(graph, name)
    if rows is not None:
        yield 0, rows - 1
    elif _type_of(node).dtype == "u8":
        yield 0, 255
    least, most = node.attrs.get(_FROM), node.attrs.get(_TO)
    if isinstance(least, int) and isinstance(most, int) and least <= most:
        yield least, most


def _rows(graph: Graph, name: str) -> int | None:
    """Entries of the smallest table that whole numbers computed from an input are looked up in; None where there is none."""
    reached, found = {name}, []
    for node in graph.nodes.values():
        if not reached.intersection(node.inputs):
            continue
        looked_up = lookup(node.op).looked_up
        if looked_up is not None:
            number, entries = looked_up(
                operands_of(node, tuple(graph.nodes[i].type for i in node.inputs), graph.params)
            )
            if node.inputs[number] in reached:
                found.append(entries)
        if isinstance(node.type, TensorType) and _is_whole(node):
            reached.add(node.name)
    sizes = [entries for entries in found if isinstance(entries, int) and entries > 0]
    return min(sizes, default=None)


def range_of(example: torch.Tensor) -> Mapping[str, Any]:
    """The attributes of an input that keep the range of an example of whole numbers."""
    if example.is_floating_point() or example.is_complex() or not example.numel():
        return {}
    return {_FROM: int(example.min()), _TO: int(example.max())}
