"""Whether module and graph make the same calls of ATen, forward and backward: then they compute the same for every data."""

from __future__ import annotations

from itertools import count

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.concrete import SAMPLE_COUNTS
from gngraph.importing.copies import on_meta, take_values
from gngraph.importing.imported import (
    Differentiate,
    Held,
    Imported,
    Outcome,
    asked_for,
    changes_by_itself,
    changes_in_forward,
    forward_only,
    step,
)
from gngraph.importing.inputs import AS_GIVEN, InputAxis, Sizes
from gngraph.importing.kept_tensors import KeptTensors, refuse_read_later
from gngraph.importing.other_sizes import by_numbers, unlike_axes
from gngraph.importing.python_state import HeldInPython
from gngraph.importing.tape import Numbers, Tape, Unknown, data_key, one_stream, stream_of_its_kind


def same_calls(claim: Imported, lowered: nn.Module) -> frozenset[InputAxis] | None:
    """The axes along which they make other calls at other sizes than the example's; None where they do at the example's own.

    One batch size is tried in each mode.

    Args:
        claim: module and graph.
        lowered: the module that the graph is lowered to, which loses its values.

    Raises:
        UnsupportedModelError: the module keeps state in Python that its next run reads.
        Exception: whatever an op raises that cannot run without data, be it in the user's own Python.
    """
    tapes = _Tapes(claim, lowered)
    if not tapes.agree():
        return None
    unlike, ran = unlike_axes(claim, tapes.agree_at)
    if not ran and not tapes.agree_at({}, training=False):
        return None
    return unlike


class _Tapes:
    def __init__(self, claim: Imported, lowered: nn.Module) -> None:
        self.claim = claim
        self.numbers = Numbers()
        self.module = Held(on_meta(claim.module))
        self.kept = KeptTensors(self.module.module)
        take_values(lowered)
        self.lowered = Held(lowered)
        own = self.module.tensors()
        made = {name: p for name, p in claim.graph.params.items() if p.kind == "constant" and name not in own}
        self.constants = {name: data_key(p.data) for name, p in made.items()}

    def agree(self) -> bool:
        module, graph = (
            self.run(SAMPLE_COUNTS[0], AS_GIVEN, of_graph=of_graph, training=True) for of_graph in (False, True)
        )
        self.check_state(module)
        held = [name for name in module.state if self.claim.holds(name)]
        self.check_written(module, graph, held)
        same = module.outputs == graph.outputs and module.gradients == graph.gradients
        return same and all(module.state[name] == graph.state.get(name) for name in held)

    def agree_at(self, sizes: Sizes, training: bool) -> bool | None:
        """Whether both give the same for other numbers of samples and other sizes; None where the module does not run for them."""
        with torch.no_grad():
            try:
                module = self.run(SAMPLE_COUNTS[1], sizes, of_graph=False, training=training)
            except Unknown:
                return by_numbers(self.claim)(sizes, training)
            except Exception:  # whatever the user's own module raises for such inputs
                if not sizes:
                    raise
                return None
            try:
                graph = self.run(SAMPLE_COUNTS[1], sizes, of_graph=True, training=training)
            except Exception:  # whatever an op raises for values of another shape than it had
                return False
        return module.outputs == graph.outputs or (bool(sizes) and by_numbers(self.claim)(sizes, training))

    def check_written(self, module: Outcome, graph: Outcome, held: list[str]) -> None:
        """Refuse a module that writes into what the graph leaves as it is, be it with what is there by chance."""
        for name in held:
            before = self.numbers.of(*self.constants.get(name, ("held", name)))
            if graph.state.get(name) == before != module.state[name]:
                raise UnsupportedModelError(changes_in_forward(self.claim.graph.name, name))

    def check_state(self, first: Outcome) -> None:
        """Refuse a module that computes something else when it runs again, be it by a counter, an average or a cache of its own."""
        name, kept = self.claim.graph.name, HeldInPython(self.module.module)
        # with gradients on, though none are wanted: torch may multiply in another way where they are off
        second = self.run(SAMPLE_COUNTS[0], AS_GIVEN, of_graph=False, training=True, differentiate=forward_only)
        kept.check(name)
        if first.outputs != second.outputs:
            raise UnsupportedModelError(changes_by_itself(name))
        if self.kept.changed:
            refuse_read_later(self.claim)

    def run(
        self, samples: int, sizes: Sizes, *, of_graph: bool, training: bool, differentiate: Differentiate = asked_for
    ) -> Outcome:
        """The numbers of what the graph, or the module, gives."""
        network = self.lowered if of_graph else self.module
        tape = Tape(self.claim.known, self.numbers, one_stream if self.claim.part is None else stream_of_its_kind)
        network.module.train(training)
        for name, tensor in network.tensors().items():
            tape.declare(tensor, *self.constants.get(name, ("held", name)))
        inputs, places = self.claim.inputs.without_data(samples, sizes), count()
        for i, x in enumerate(inputs):
            tape.declare(x, "input", i)

        def project(x: torch.Tensor) -> torch.Tensor:
            projection = torch.empty_like(x)
            tape.declare(projection, "projection", next(places))
            return projection

        with tape:
            part = None if of_graph else self.claim.part
            found = step(network, inputs, project, part, differentiate=differentiate)
        return Outcome(
            [tape.number(x) for x in found.outputs],
            {name: None if x is None else tape.number(x) for name, x in found.gradients.items()},
            {name: tape.number(x) for name, x in found.state.items()},
        )
