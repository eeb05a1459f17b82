"""What an import claims, that a graph trains as a module does, and what both are run for to hold one against the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.shapes import ShapesSeen, tensors_in
from gngraph.ir import Graph


@dataclass(frozen=True)
class Imported:
    """An import to be proved.

    Attributes:
        module: a copy of the user's, which the proof may run and change.
        graph: what was made of it.
        inputs: example inputs.
        part: what the graph computes of the module's output in train mode.
        whole: whether that is all of it; else buffers that the graph does not read are not compared.
        suspects: what was met on the way that may be why the two do not agree, in words.
        known: see `Shapes`.
        alone: whether one sample may take another way than several, see `Decided`.
        by_gradients: whether the forward asks for gradients, and may do something else without them.
    """

    module: nn.Module
    graph: Graph
    inputs: ExampleInputs
    part: Callable[[Any], Any]
    whole: bool
    suspects: Sequence[str]
    known: ShapesSeen = field(repr=False)
    alone: bool = False
    by_gradients: bool = False

    def holds(self, name: str) -> bool:
        """Whether the graph says what a step makes of the parameter or buffer `name`."""
        return name in self.graph.params and (self.whole or bool(self.graph.readers(name)))


@dataclass(frozen=True)
class Outcome:
    """What a forward, and the backward of a projection of its outputs, give: tensors, or their numbers on a tape.

    Attributes:
        outputs: in order.
        gradients: of parameters and inputs, by name; None for what no gradient reaches.
        state: parameters and buffers afterwards, by name.
    """

    outputs: list[Any]
    gradients: Mapping[str, Any]
    state: Mapping[str, Any]


Differentiate = Callable[[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]], Sequence[torch.Tensor | None]]
"""Of some outputs, by some leaves, at gradients of the outputs."""


class Held:
    """Where a module keeps its parameters and buffers: found once, read again after every run.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        places = [
            (f"{path}.{key}".strip("."), child, table, key)
            for path, child in module.named_modules(remove_duplicate=False)
            for table in ("_parameters", "_buffers")
            for key in getattr(child, table)
        ]
        self._places = sorted(places, key=lambda place: place[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them now, each by the first of its names in the alphabet."""
        names: dict[int, str] = {}
        found = {}
        for name, child, table, key in self._places:
            tensor = getattr(child, table).get(key)
            if tensor is not None and names.setdefault(id(tensor), name) == name:
                found[name] = tensor
        return found


def asked_for(
    outputs: list[torch.Tensor], wanted: list[torch.Tensor], at: list[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    """Gradients as `torch.autograd.grad` gives them, which touches nothing, but which no reentrant checkpoint allows.

    Args:
        outputs: what is differentiated.
        wanted: by what.
        at: gradients of the outputs.
    """
    return torch.autograd.grad(outputs, wanted, at, allow_unused=True)


def forward_only(outputs: list[torch.Tensor], wanted: list[torch.Tensor], at: list[torch.Tensor]) -> list[None]:
    """No gradients, of a run of which the outputs alone are wanted.

    Args:
        outputs: what could be differentiated.
        wanted: by what.
        at: gradients of the outputs.
    """
    return [None] * len(wanted)


def accumulated(
    outputs: list[torch.Tensor], wanted: list[torch.Tensor], at: list[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    """Gradients as a training has them, accumulated in leaves that have none before and after.

    Args:
        outputs: what is differentiated.
        wanted: by what; leaves.
        at: gradients of the outputs.
    """
    for leaf in wanted:
        leaf.grad = None
    torch.autograd.backward(outputs, at)
    found = [leaf.grad for leaf in wanted]
    for leaf in wanted:
        leaf.grad = None
    return found


def step(
    held: Held,
    inputs: Sequence[torch.Tensor],
    project: Callable[[torch.Tensor], torch.Tensor],
    part: Callable[[Any], Any] | None,
    *,
    of_inputs: bool = True,
    differentiate: Differentiate = asked_for,
) -> Outcome:
    """Run a module, and where gradients are on, its backward.

    Args:
        held: of a module in the mode that is wanted.
        inputs: for its forward.
        project: gives the gradient at an output.
        part: what is kept of its output in train mode; None for all of it.
        of_inputs: whether gradients of the inputs are asked for too.
        differentiate: gives gradients of outputs.
    """
    module, before = held.module, held.tensors()
    leaves = [x.detach().requires_grad_(of_inputs and x.is_floating_point()) for x in inputs]
    result = module(*(x.clone() for x in leaves))  # which it may change in place
    outputs = list(tensors_in(part(result) if part is not None and module.training else result))
    parameters = {name: p for name, p in before.items() if isinstance(p, nn.Parameter) and p.requires_grad}
    wanted = {**{f"input {i}": x for i, x in enumerate(leaves) if x.requires_grad}, **parameters}
    gradients: dict[str, Any] = dict.fromkeys(wanted)
    passing = [x for x in outputs if x.requires_grad]
    if passing and wanted and torch.is_grad_enabled():
        found = differentiate(passing, list(wanted.values()), [project(x) for x in passing])
        dense = (x.to_dense() if x is not None and x.is_sparse else x for x in found)  # as those of sparse tables
        gradients = dict(zip(wanted, dense, strict=True))
    return Outcome(outputs, gradients, held.tensors())


def changes_by_itself(name: str) -> str:
    """Why a module is refused that computes something else when it runs again."""
    return (
        f"'{name}' computes something else whenever it runs in train mode, or after a step, from what it keeps in its attributes, "
        f"which a graph would hold as it is now; keep it outside of the module, or pass it as an input"
    )


def changes_in_forward(network: str, name: str, node: str | None = None) -> str:
    """Why a `network` is refused that changes its parameter or buffer `name`, at a `node` of the trace if that is known."""
    where = f" (node '{node}')" if node is not None else ""
    return (
        f"'{network}' changes '{name}' in its forward{where}, an update that a graph does not hold; run the network once before if "
        f"it only sets itself up, else update it outside of forward, or register the module as an op (gngraph.ops.register)"
    )


def changes_constant(network: str, node: str) -> str:
    """Why a `network` is refused that writes a value, at a `node` of the trace, into a tensor that it makes of numbers alone."""
    return (
        f"node '{node}' writes a value into a tensor that the forward of '{network}' makes of numbers alone, which a graph holds "
        f"as it is; make it of a value (x.new_zeros(3, 3)), or put it together by torch.stack or torch.cat"
    )


def does_not_train(network: str, reason: str) -> str:
    """Why a `network` is refused that does not run in train mode, by what it raises there, its `reason`."""
    return f"'{network}' does not run in train mode: {reason}; give an example that it can train on, or leave out what only trains"


def asks_for_gradients(what: str, where: str) -> str:
    """Why a forward that asks for gradients may be what keeps a graph from computing as the module does."""
    return (
        f"{where} asks for '{what}', and may do something else without gradients, where a graph does the same; let it ask for "
        f"self.training, or do the same in both"
    )


def functions_behind(outputs: Sequence[torch.Tensor]) -> list[str]:
    """The autograd.Functions that gradients of some values pass, by name: their backward is their own."""
    names: dict[str, None] = {}
    waiting = [x.grad_fn for x in outputs]
    seen = set(waiting)
    for node in waiting:  # which grows on the way
        own = getattr(type(node), "_forward_cls", None)
        if own is not None:
            names[own.__name__] = None
        further = {following for following, _ in getattr(node, "next_functions", ())} - seen
        seen |= further
        waiting += further
    return list(names)


def function_of_its_own(function: str, where: str = "") -> str:
    """Why an autograd.Function may be what keeps a graph from training as the module does."""
    return (
        f"'{function}'{where} is an autograd.Function, whose backward is its own; register it as an op (gngraph.ops.register), or "
        f"write it with torch's functions"
    )
