"""Tensors that a module keeps of its runs in attributes, which a later run may read: of a graph no run knows another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.importing.copies import copy_of
from gngraph.importing.imported import Held, Imported, accumulated, changes_by_itself, step
from gngraph.importing.other_sizes import close, random_inputs

_STEP = 1.01
"""What parameters are multiplied by, for a step changes them."""


class KeptTensors:
    """The tensors that a module holds in attributes, beside parameters and buffers, as they are now.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._held = dict(_in_attributes(module))

    @property
    def changed(self) -> bool:
        """Whether it holds others by now."""
        return any(self._held.get(name) is not tensor for name, tensor in _in_attributes(self._module))


def _in_attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, child in module.named_modules():
        for key, value in vars(child).items():
            if key not in ("_parameters", "_buffers", "_modules"):
                items = value if type(value) in (list, tuple) else value.values() if type(value) is dict else (value,)
                tensors = (
                    item for item in items if isinstance(item, torch.Tensor) and not isinstance(item, nn.Parameter)
                )
                yield from ((f"{path}.{key}.{place}", tensor) for place, tensor in enumerate(tensors))


def refuse_read_later(claim: Imported) -> None:
    """Hold a module that has run in both modes, and was trained since, against one of its parameters that has not run.

    Args:
        claim: the module, and the graph that is as one that has not.

    Raises:
        UnsupportedModelError: they compute something else.
    """
    used = copy_of(claim.module)
    for training in (False, True):
        _run(used, claim, training=training)
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.mul_(_STEP)
    for training in (False, True):
        fresh = copy_of(claim.module)
        fresh.load_state_dict(used.state_dict())
        expected, found = (_run(module, claim, training=training) for module in (fresh, used))
        if expected is not None and (found is None or _differ(expected, found)):
            raise UnsupportedModelError(changes_by_itself(claim.graph.name))


def _run(module: nn.Module, claim: Imported, *, training: bool) -> list[torch.Tensor | None] | None:
    """Outputs, and gradients in train mode; None where it does not run."""
    torch.manual_seed(0)
    held, inputs = Held(module.train(training)), random_inputs(claim.inputs, {})
    try:
        with torch.set_grad_enabled(training):
            found = step(held, inputs, torch.ones_like, None, of_inputs=False, differentiate=accumulated)
    except Exception:  # whatever the user's own module raises
        return None
    return [*found.outputs, *found.gradients.values()]


def _differ(a: Sequence[torch.Tensor | None], b: Sequence[torch.Tensor | None]) -> bool:
    same = (x is y if x is None or y is None else close(x, y) for x, y in zip(a, b, strict=False))
    return len(a) != len(b) or not all(same)
