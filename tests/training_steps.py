"""In what two modules differ when they are trained: outputs, gradients and state of steps of SGD, by running both."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gngraph.ir.casting import cast

TOLERANCE = 1e-8
"""Largest difference relative to the largest entry of a tensor, in float64."""
RATE = 0.05
"""Of the steps."""
FLOOR = 1e-4
"""Least size that a tensor is compared relative to, in multiples of the largest of its kind."""

Values = dict[str, Tensor | None]


@dataclass(frozen=True)
class Trial:
    """What two modules are put through: eval mode on every batch, a step on each, as often as wanted, and eval mode again.

    Attributes:
        batches: inputs of one step each; they may have different numbers of samples.
        rounds: how often all batches are trained on.
        part: what is compared of the output of the first module in train mode.
        dtype: what both are run in; None for their own.
        tolerance: largest difference, relative to the largest entry of a tensor.
        of_inputs: whether gradients of the inputs are compared, which some networks let nobody ask for.
    """

    batches: Sequence[Sequence[Tensor]]
    rounds: int = 1
    part: Callable[[Any], Any] = lambda output: output
    dtype: torch.dtype | None = torch.float64
    tolerance: float = TOLERANCE
    of_inputs: bool = True

    def differences(self, module: nn.Module, other: nn.Module) -> Iterator[str]:
        """What differs, one after another; both modules are trained, and move in dtype."""
        if list(module.state_dict()) != list(other.state_dict()):
            yield "keys of the state_dict"
        for one in (module, other):
            if self.dtype is not None:
                one._apply(partial(_in, self.dtype))  # type: ignore[no-untyped-call]
        for number, (training, batch) in enumerate(self._runs()):
            where = f"in step {number} ({'train' if training else 'eval'} mode)"
            given = [x if self.dtype is None else _in(self.dtype, x) for x in batch]
            first = _run(module, given, number, training, self.part, self.of_inputs)
            try:
                second = _run(other, given, number, training, lambda output: output, self.of_inputs)
            except Exception as error:  # where the first ran
                yield f"'{type(error).__name__}: {error}' is raised {where}"
                return
            yield from (f"{key} {where}" for key in self._unlike(first, second))

    def _runs(self) -> Iterator[tuple[bool, Sequence[Tensor]]]:
        yield from ((False, batch) for batch in self.batches)
        for _ in range(self.rounds):
            yield from ((True, batch) for batch in self.batches)
        yield from ((False, batch) for batch in self.batches)

    def _unlike(self, first: Values, second: Values) -> Iterator[str]:
        sizes: dict[str, float] = {}
        for key, a in first.items():
            if a is not None and a.numel() and a.is_floating_point():
                kind, finite = key.partition(" ")[0], a[a.isfinite()]
                sizes[kind] = max(sizes.get(kind, 0.0), float(finite.abs().max()) if finite.numel() else 0.0)
        outputs = [key for key in second if key.startswith("output")]
        for key in dict.fromkeys([*first, *outputs]):
            floor = FLOOR * sizes.get(key.partition(" ")[0], 0.0)
            if not _close(first.get(key), second.get(key), self.tolerance, floor):
                yield key


def steps_differ(
    module: nn.Module, other: nn.Module, *inputs: Tensor, part: Callable[[Any], Any] = lambda output: output
) -> list[str]:
    """What differs between copies of two modules in eval mode, in three steps of SGD, and in eval mode after."""
    trial = Trial([inputs], rounds=3, part=part)
    return list(trial.differences(*(copy.deepcopy(m) for m in (module, other))))


def _in(dtype: torch.dtype, x: Tensor) -> Tensor:
    """A tensor in a precision; integers and flags stay."""
    return x.to(cast(x.dtype, dtype))


def seed_everything(seed: int) -> None:
    """Set every global stream of random numbers."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _run(
    module: nn.Module,
    inputs: Sequence[Tensor],
    seed: int,
    training: bool,
    part: Callable[[Any], Any],
    of_inputs: bool,
) -> Values:
    module.train(training)
    seed_everything(seed)
    leaves = [x.clone().requires_grad_(of_inputs and x.is_floating_point()) for x in inputs]
    with torch.set_grad_enabled(training):
        result = module(*(x.clone() for x in leaves))
    outputs = [x for x in tree_leaves(part(result) if training else result) if isinstance(x, Tensor)]
    values: Values = {f"output {i}": x.detach().clone() for i, x in enumerate(outputs)}
    if training:
        module.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        losses = [
            (x * torch.randn(x.shape, generator=generator).to(x.dtype)).sum() / x.numel() ** 0.5
            for x in (torch.view_as_real(y) if y.is_complex() else y for y in outputs)
            if x.requires_grad
        ]
        if losses:
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        values |= {f"gradient of {name}": p.grad for name, p in module.named_parameters()}
        values |= {f"gradient of input {i}": x.grad for i, x in enumerate(leaves)}
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p.sub_(RATE * p.grad)
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return values | {f"state {name}": x.detach().clone() for name, x in held.items()}


def _close(a: Tensor | None, b: Tensor | None, tolerance: float, floor: float) -> bool:
    if a is None or b is None:
        return a is None and b is None  # with decay, no gradient and a gradient of zero are not the same
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    finite = a[a.isfinite()]
    scale = max(floor, float(finite.abs().max()) if finite.numel() else 0.0)
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True)
