"""A user's module follows a rewrite of its graph: which of its channel spaces it can follow, and how."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, combinations

import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import GnGraphError, UnsupportedModelError
from gngraph.importing.imported import Imported
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.reasons import reason_of
from gngraph.importing.same_numbers import compare_numbers
from gngraph.importing.shapes import tensors_in
from gngraph.importing.surroundings import masks_as_given, plain_torch
from gngraph.inplace.hosts import evaluated, put, tensors_of, twin_of
from gngraph.inplace.numbers import NumberAt, NumberChanges, numbers_of_forwards, numbers_of_kinds, numbers_of_layers
from gngraph.ir import BATCH, Graph
from gngraph.ir.casting import cast
from gngraph.lowering.to_torch import run
from gngraph.rewrite.layers import called
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel

_SPREAD = 0.5
"""Standard deviation of what is added to the weights of a probe, in units of their own: new channels start at zero, where an error
would not show."""

_SETS = 16
"""Largest number of sets of attributes that are tried for one space."""

_TOLERANCE = 1e-2
"""Largest difference between a module and its graph where each runs in the module's own dtype, relative to the largest entry."""


@dataclass(frozen=True)
class Followed:
    """What a module can follow.

    Attributes:
        held: channel space -> why it must keep its width.
        places: attributes of the user's own modules that hold widths.
    """

    held: Mapping[str, str]
    places: frozenset[NumberAt]


def followed(module: nn.Module, graph: Graph, inputs: tuple[torch.Tensor, ...]) -> Followed:
    """Find out which channel spaces of `graph` the module can follow, on twins of it.

    Every space is made wider, with weights at random, and a twin that follows must compute and train as the graph does. Where a
    twin needs it, attributes of the user's modules that are equal to the width are set too. Cost: a probe (some forward and
    backward passes of a few samples) for all spaces at once; one or more for each where that fails.

    Args:
        module: the user's, which stays as it is.
        graph: of the module, with values.
        inputs: example inputs.
    """
    names = [space.name for space in ChannelSpaces.of(graph).free]
    if not names or _probed(module, graph, inputs, names, frozenset()) is None:
        return Followed({}, frozenset())
    held: dict[str, str] = {}
    places: set[NumberAt] = set()
    for name in names:
        problem = _probed(module, graph, inputs, [name], frozenset())
        if problem is None:
            continue
        for some in _sets(numbers_of_forwards(module, graph, _widened(graph, [name]))):
            if _probed(module, graph, inputs, [name], some) is None:
                places |= some
                break
        else:
            held[name] = _reason(module, graph, name, problem)
    return Followed(held, frozenset(places))


def follow(module: nn.Module, before: Graph, after: Graph, places: Collection[NumberAt] = ()) -> dict[NumberAt, object]:
    """Write what `after` has and `before` has not into the module: tensors, and numbers in attributes. Objects stay.

    Args:
        module: of the graph `before`.
        before: a graph; parameters that `after` shares with it are left as they are.
        after: the rewritten graph.
        places: attributes of the user's own modules that hold widths, see `Followed`.

    Returns:
        The attributes that were changed, with their former values.

    Raises:
        UnsupportedModelError: layers come or go, or a tensor is changed that the forward makes; the module is unchanged.
    """
    if after.params.keys() != before.params.keys():
        raise UnsupportedModelError(f"layers of '{before.name}' come or go, which cannot be done in place")
    tensors = tensors_of(module, before)
    changed = {n: p.data for n, p in after.params.items() if p.data is not before.params[n].data}
    for name in changed:
        if name not in tensors:
            raise UnsupportedModelError(
                f"tensor '{name}' of '{before.name}' is made in a forward, where its size cannot be changed; make it a buffer"
            )
    numbers = _numbers(module, before, after, places)
    former: dict[NumberAt, object] = {}
    for name, data in changed.items():
        put(tensors[name], data)
    for place, (old, new) in numbers.items():
        held = vars(module.get_submodule(place.path))
        if held.get(place.attribute) == old:
            former[place] = held[place.attribute]
            held[place.attribute] = new
    return former


def difference(module: nn.Module, graph: Graph, inputs: tuple[torch.Tensor, ...]) -> str | None:
    """In what a module and a graph differ, in words; None where they compute and train the same.

    Twins of both run in eval and train mode in float64, or in their own dtype where they run in no other. The module itself, with
    its hooks and on its device, runs once in eval mode.

    Args:
        module: the user's, which stays as it is.
        graph: its graph, on the CPU.
        inputs: example inputs, on the CPU.
    """
    return _twins_differ(twin_of(module), graph, inputs) or outputs_differ(module, graph, inputs)


def _twins_differ(twin: nn.Module, graph: Graph, inputs: tuple[torch.Tensor, ...]) -> str | None:
    given = _by_samples(graph, inputs)
    try:
        with plain_torch(), masks_as_given() if given.shared else nullcontext():
            compare_numbers(Imported(twin, graph, given, lambda outputs: outputs, True, (), {}))
    except UnsupportedModelError as error:
        return str(error)
    return None


def _by_samples(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> ExampleInputs:
    shapes = (graph.nodes[name].shape for name in graph.inputs)
    return ExampleInputs(inputs, tuple(shape.index(BATCH) if BATCH in shape else None for shape in shapes))


def outputs_differ(module: nn.Module, graph: Graph, inputs: tuple[torch.Tensor, ...]) -> str | None:
    """In what the module itself, as it runs once in eval mode, differs from its graph, in words; None: in nothing.

    Args:
        module: the user's, with its hooks.
        graph: see `difference`.
        inputs: see `difference`.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with evaluated(module), torch.no_grad():
            outputs = list(tensors_in(module(*(x.to(device, copy=True) for x in inputs))))
    except Exception as error:  # whatever the user's module or a hook of it raises
        return f"'{graph.name}' does not run: {reason_of(error)}"
    expected = list(tensors_in(run(graph, *inputs)))
    if len(outputs) == len(expected) and all(_near(a.cpu(), b) for a, b in zip(outputs, expected, strict=True)):
        return None
    return f"'{graph.name}' returns something else than its graph; a hook may change what passes it"


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or not (a.is_floating_point() or a.is_complex()):
        return a.shape == b.shape
    size = float(b.abs().max()) if b.numel() else 0.0
    a, b = (x.to(cast(x.dtype, torch.float64)) for x in (a, b))
    return torch.allclose(a, b, rtol=0.0, atol=_TOLERANCE * size, equal_nan=True)


def _numbers(module: nn.Module, before: Graph, after: Graph, places: Collection[NumberAt]) -> NumberChanges:
    own = numbers_of_forwards(module, before, after) if places else {}
    layers = numbers_of_kinds(module, after) | numbers_of_layers(before, after)
    return layers | {place: change for place, change in own.items() if place in places}


def _probed(
    module: nn.Module,
    graph: Graph,
    inputs: tuple[torch.Tensor, ...],
    names: Sequence[str],
    places: frozenset[NumberAt],
) -> str | None:
    """What goes wrong when a twin of the module follows the graph at other widths of some spaces; None: nothing."""
    twin, after = twin_of(module), _widened(graph, names)
    try:
        follow(twin, graph, after, places)
    except GnGraphError as error:
        return str(error)
    return _twins_differ(twin, after, inputs)


def _widened(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph with more channels in some spaces, another number in each and its neighbours, and weights at random."""
    spaces = ChannelSpaces.of(graph)
    news = [NewChannel(name) for at, name in enumerate(names) for _ in range(1 + at % 3)]
    wide = morph(graph, spaces, news).graph
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: _noisy(p.data, generator)
        for name, p in wide.params.items()
        if p.kind == "parameter" and p.data.is_floating_point()
    }
    return wide.with_params(noisy)


def _noisy(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    spread = float(weight.float().std()) if weight.numel() > 1 else 0.0
    return weight + (torch.randn(weight.shape, generator=generator) * _SPREAD * (spread or 0.1)).to(weight)


def _sets(numbers: NumberChanges) -> Iterator[frozenset[NumberAt]]:
    """Sets of attributes, small ones first."""
    places = list(numbers)
    sizes = range(1, len(places) + 1)
    subsets = chain.from_iterable(combinations(places, size) for size in sizes)
    for _, some in zip(range(_SETS), subsets, strict=False):
        yield frozenset(some)


def _reason(module: nn.Module, graph: Graph, space: str, problem: str) -> str:
    spaces, wide = ChannelSpaces.of(graph), _widened(graph, [space])
    for norm in spaces.counters.get(space, ()):
        if wide.nodes[norm].op != graph.nodes[norm].op:
            return (
                f"norm '{called(graph, norm)}' counts its channels, and of a wider one would have to count those alone that are "
                f"there now, which no module does; a BatchNorm or a LayerNorm can follow, and gngraph.grow writes it out"
            )
    for name, measures in spaces.measures.items():
        if any(space == part for measure in measures if measure.size is None for part, _ in measure.parts):
            node = graph.nodes[name]
            where = f"module '{node.scope}'" if node.scope else f"'{graph.name}'"
            return (
                f"its width stands as a number in the forward of {where} (node '{name}', {node.op}), which cannot change in place; "
                f"compute it from a shape, or keep it in an attribute of that module"
            )
    return f"the module cannot follow it: {problem}"
