"""Losses of the user's own, and sums of losses on several outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from gngraph.curvature.losses import Loss, shown
from gngraph.curvature.named import loss_named
from gngraph.curvature.outputs import Outputs, detached, entry, leaves, replaced
from gngraph.errors import DataError, GnGraphError

LossLike = Loss | str | Callable[[Any, Any], Tensor]
"""A loss, its name in `LOSSES`, or a function that maps (outputs, targets) to the loss of each sample [N]."""


@dataclass(frozen=True)
class CustomLoss:
    """A loss of the user's own, on whatever the network returns and the data has for targets.

    Attributes:
        name: what messages and records call it.
        function: maps (outputs, targets) to the loss of each sample [N], differentiably.
        sampler: maps (outputs, targets, generator) to one random cotangent a sample, see `Loss.sample_factor`; where the
            network returns several tensors, to a dictionary or tuple of them, with None for a tensor that the loss does
            not read. Without one only the curvature "rank1" is available, with one also "mc".

    >>> l1 = CustomLoss("l1", lambda outputs, targets: (outputs - targets).abs().sum(1))
    >>> l1.curvatures
    ('rank1',)
    >>> l1.sample_factor(torch.zeros(1, 1), torch.zeros(1, 1), torch.Generator())
    Traceback (most recent call last):
    gngraph.errors.GnGraphError: loss "l1" has no sampler, so only curvature "rank1" is available: ...
    """

    name: str
    function: Callable[[Any, Any], Tensor]
    sampler: Callable[[Any, Any, torch.Generator], Outputs] | None = None

    @property
    def curvatures(self) -> tuple[str, ...]:
        """Names of the curvature models available, the most accurate first."""
        return ("rank1",) if self.sampler is None else ("mc", "rank1")

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The loss of each sample [N]; raises GnGraphError when the function returns anything else."""
        losses = self.function(outputs, targets)
        count = _count(targets)
        if not isinstance(losses, Tensor) or losses.shape != (count,):
            found = f'shape "{shown(losses.shape)}"' if isinstance(losses, Tensor) else f'"{type(losses).__name__}"'
            raise GnGraphError(
                f'loss "{self.name}" returned {found} for {count} samples: it must return one number a sample, so '
                'reduce over all axes but the first (reduction="none" in torch, then .flatten(1).mean(1))'
            )
        return losses

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless there is one target a sample; what it means is the function's own affair."""
        for output in leaves(outputs).values():
            if len(output) != _count(targets):
                raise DataError(
                    f"there are {_count(targets)} targets, but the outputs have shape "
                    f'"{shown(output.shape)}": give one target a sample'
                )

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """What the sampler draws; raises GnGraphError without one, or when it does not fit the outputs."""
        if self.sampler is None:
            raise self._without_sampler()
        tensors = leaves(outputs)
        drawn = leaves(self.sampler(replaced(outputs, detached(tensors)), targets, generator))
        if not drawn:
            raise GnGraphError(f'the sampler of loss "{self.name}" returned no tensor: return one like the outputs')
        for path, factor in drawn.items():
            place = f' at "{".".join(map(str, path))}"' if path else ""
            if path not in tensors:
                raise GnGraphError(
                    f'the sampler of loss "{self.name}" returned a tensor{place}, where the outputs have none: return '
                    "what is shaped like the outputs"
                )
            if factor.shape != tensors[path].shape:
                raise GnGraphError(
                    f'the sampler of loss "{self.name}" returned shape "{shown(factor.shape)}" for outputs of shape '
                    f'"{shown(tensors[path].shape)}"{place}: the two must be equal'
                )
        return replaced(outputs, detached(drawn))

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Outputs:
        """Always raises GnGraphError: a function alone does not tell its Hessian in factors."""
        if self.sampler is None:
            raise self._without_sampler()
        raise GnGraphError(
            f'loss "{self.name}" has a sampler but no exact factors, so curvature "exact" is not available: '
            'choose "mc" or "rank1"'
        )

    def _without_sampler(self) -> GnGraphError:
        return GnGraphError(
            f'loss "{self.name}" has no sampler, so only curvature "rank1" is available: '
            "choose it, or give the loss a sampler"
        )


@dataclass(frozen=True)
class Heads:
    """A weighted sum of losses, each on one of the outputs of a network that returns several.

    Every head is given its own target where the targets are a dictionary that has its name (or, for heads that are named
    by position, a tuple), and else all of them. The curvatures are those that all the losses have.

    Attributes:
        heads: name (or position) of the output -> its loss, or (loss, weight) with a weight above 0. The accuracy of
            such a network is that of the first.

    Raises:
        GnGraphError: there is no head, a loss is unknown, or a weight is not a number above 0.

    >>> loss = Heads({"out": "cross-entropy", "aux": ("cross-entropy", 0.4)})
    >>> loss.name
    'cross-entropy(out) + 0.4 cross-entropy(aux)'
    >>> outputs = {"out": torch.zeros(1, 2), "aux": torch.zeros(1, 2), "other": torch.zeros(1)}
    >>> loss.per_sample(outputs, torch.tensor([0]))
    tensor([0.9704])
    """

    heads: Mapping[str | int, LossLike | tuple[LossLike, float]]

    def __post_init__(self) -> None:
        if not self.heads:
            raise GnGraphError('there is no head: name outputs and their losses, as in Heads({"out": "cross-entropy"})')
        for head in self._all:
            if not 0 < head.weight < math.inf:
                raise GnGraphError(f'the weight of head "{head.key}" is "{head.weight}": it must be a number above 0')

    @cached_property
    def _all(self) -> tuple[_Head, ...]:
        pairs = ((key, given if isinstance(given, tuple) else (given, 1.0)) for key, given in self.heads.items())
        return tuple(_Head(key, as_loss(loss), weight) for key, (loss, weight) in pairs)

    @property
    def name(self) -> str:
        """The sum, written out."""
        return " + ".join(f"{'' if h.weight == 1 else f'{h.weight:g} '}{h.loss.name}({h.key})" for h in self._all)

    @property
    def curvatures(self) -> tuple[str, ...]:
        """Names of the curvature models that every loss has, the most accurate first."""
        first, *others = (head.loss.curvatures for head in self._all)
        return tuple(name for name in first if all(name in other for other in others))

    def parts(self, outputs: Outputs, targets: Any) -> list[tuple[Loss, Outputs, Any]]:
        """Each loss with the output and the targets that it reads; raises GnGraphError where there is no such output."""
        return [(head.loss, *head.reads(outputs, targets)) for head in self._all]

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The weighted sum of the losses of each sample [N]."""
        terms = [head.weight * head.loss.per_sample(*head.reads(outputs, targets)) for head in self._all]
        return torch.stack(terms).sum(0)

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless every loss accepts its targets."""
        for head in self._all:
            head.loss.check_targets(*head.reads(outputs, targets))

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """Independent draws of the losses, each by the root of its weight.

        The Hessian of the sum has a block for each head and nothing between them. Independent draws correlate all the
        same where the samplers' means are not 0, so every head but the first gets a random sign for each sample.
        """
        drawn: dict[str | int, Outputs] = {}
        for head in self._all:
            output, target = head.reads(outputs, targets)
            factors = leaves(head.loss.sample_factor(output, target, generator))
            scale: float | Tensor = math.sqrt(head.weight)
            if drawn:
                scale = scale * _signs(next(iter(factors.values())), generator)
            drawn[head.key] = replaced(output, {path: _by_sample(factor, scale) for path, factor in factors.items()})
        return drawn

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Outputs:
        """The factors of all losses one after the other, each by the root of its weight and 0 at the other heads."""
        parts = self.parts(outputs, targets)
        factors = [leaves(loss.hessian_factors(output, target)) for loss, output, target in parts]
        counts = [len(next(iter(found.values()))) for found in factors]
        stacked: dict[str | int, Outputs] = {}
        for i, (head, (_, output, _)) in enumerate(zip(self._all, parts, strict=True)):
            margins = sum(counts[:i]), sum(counts[i + 1 :])
            padded = {path: _padded(f * math.sqrt(head.weight), *margins) for path, f in factors[i].items()}
            stacked[head.key] = replaced(output, padded)
        return stacked


@dataclass(frozen=True)
class _Head:
    key: str | int
    loss: Loss
    weight: float

    def reads(self, outputs: Outputs, targets: Any) -> tuple[Outputs, Any]:
        """The output and the targets of this head."""
        named = isinstance(targets, Mapping) and self.key in targets
        placed = isinstance(targets, (tuple, list)) and self.key in range(len(targets))
        return entry(outputs, self.key), targets[self.key] if named or placed else targets


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1 for each sample, [N]."""
    bits = torch.randint(2, like.shape[:1], generator=generator, device=like.device)
    return (2 * bits - 1).to(like.dtype)


def _by_sample(factor: Tensor, scale: float | Tensor) -> Tensor:
    """`factor` [N, ...] by a number, or by one number a sample [N]."""
    return factor * (scale.reshape(-1, *[1] * (factor.dim() - 1)) if isinstance(scale, Tensor) else scale)


def _padded(factors: Tensor, before: int, after: int) -> Tensor:
    """`factors` [R, ...] with factors of 0 before and after."""
    first, last = (factors.new_zeros(count, *factors.shape[1:]) for count in (before, after))
    return torch.cat([first, factors, last])


def parts_of(loss: Loss, outputs: Outputs, targets: Any) -> list[tuple[Loss, Outputs, Any]]:
    """The losses of which `loss` is a sum, with the output and the targets that each reads; itself where it is none.

    Args:
        loss: of any sort.
        outputs: what the network gave.
        targets: as the loss reads them, for a sum a dictionary by head.

    Raises:
        GnGraphError: there is no output of the name that a head has.
    """
    if not isinstance(loss, Heads):
        return [(loss, outputs, targets)]
    return [part for head in loss.parts(outputs, targets) for part in parts_of(*head)]


def as_loss(loss: Loss | str | Callable[[Any, Any], Tensor]) -> Loss:
    """The loss that is given as itself, by its name in `LOSSES`, or as a function of outputs and targets.

    A function becomes a `CustomLoss` with the function's own name.

    Raises:
        GnGraphError: there is no loss of this name.

    >>> as_loss("mse"), as_loss(torch.nn.L1Loss(reduction="none")).name
    (MeanSquaredError(), 'L1Loss')
    """
    if isinstance(loss, str):
        return loss_named(loss)
    if hasattr(loss, "per_sample"):
        return cast(Loss, loss)
    return CustomLoss(getattr(loss, "__name__", type(loss).__name__), loss)


def _count(targets: Any) -> int:
    """The number of samples that `targets` are for."""
    for tensor in leaves(targets).values():
        return len(tensor)
    raise DataError("the targets hold no tensor: give each sample a tensor, or a tuple or dictionary of tensors")
