"""Losses per sample, with factors of their Hessian with respect to the network's outputs.

Every factor is a *cotangent*: a tensor v of the shape of the outputs, ready to be sent backwards through the network.
With H_i the Hessian of sample i's loss with respect to its own outputs, `sample_factor` draws one v_i with
E[v_i v_i^T] = H_i, and `hessian_factors` lists v_i1 ... v_iR with sum_r v_ir v_ir^T = H_i. For the three losses
built in, H_i does not depend on the target.

Outputs are float32 or float64 on any device; results have their dtype and device, and factors carry no gradient.
Random numbers come from the generator passed in, which must live on the device of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gngraph.errors import DataError, GnGraphError


class Loss(Protocol):
    """A loss that is a mean over independent samples."""

    @property
    def name(self) -> str:
        """The name the loss goes by in `LOSSES` and on the command line."""
        ...

    @property
    def curvatures(self) -> tuple[str, ...]:
        """Names of the curvature models available for this loss, the most accurate first."""
        ...

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample [N], differentiable in `outputs` [N, ...]."""
        ...

    def check_targets(self, output_shape: Sequence[int], targets: Tensor) -> None:
        """Raise DataError unless `targets` fit outputs of shape [N, ...].

        It waits for the device, so call it once a data set and not once a batch.
        """
        ...

    def sample_factor(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One random cotangent a sample, of the shape of `outputs`, whose second moment is the Hessian."""
        ...

    def hessian_factors(self, outputs: Tensor) -> Tensor:
        """Cotangents [R, *outputs.shape] whose outer products sum to the Hessian.

        They are read-only, since entries may share memory.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of logits [N, K] or [N, K, *spatial] with labels int64 [N] or [N, *spatial], mean over positions.

    >>> loss = CrossEntropy()
    >>> logits = torch.zeros(2, 4)
    >>> loss.per_sample(logits, torch.tensor([0, 3]))
    tensor([1.3863, 1.3863])
    >>> loss.hessian_factors(logits).shape
    torch.Size([4, 2, 4])
    >>> loss.check_targets(logits.shape, torch.tensor([0, 4]))
    Traceback (most recent call last):
    gngraph.errors.DataError: label "4" of sample 1 is out of range for 4 classes: labels must lie in 0 to 3
    """

    name: ClassVar[str] = "cross-entropy"
    curvatures: ClassVar[tuple[str, ...]] = ("exact", "mc", "rank1")

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample [N], the mean over its positions."""
        return _mean_over_entries(functional.cross_entropy(outputs, targets, reduction="none"))

    def check_targets(self, output_shape: Sequence[int], targets: Tensor) -> None:
        """Raise DataError unless `targets` are int64 labels within the K classes of `output_shape`."""
        if len(output_shape) < 2 or output_shape[1] < 2:
            raise DataError(
                "cross-entropy needs outputs [N, classes, ...] with at least 2 classes, but they have shape "
                f'"{_shown(output_shape)}": '
                'use the loss "bce-with-logits" for a single logit'
            )
        if targets.dtype != torch.int64:
            raise DataError(
                f'cross-entropy needs int64 class labels, but the targets are "{_dtype(targets)}": '
                "convert them with .long()"
            )
        _check_shape((output_shape[0], *output_shape[2:]), targets, output_shape)
        classes = output_shape[1]
        _check_values(
            (targets < 0) | (targets >= classes),
            targets,
            "label",
            f"is out of range for {classes} classes: labels must lie in 0 to {classes - 1}",
        )

    def sample_factor(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """`label_factor` at labels drawn from the model's own predictive distribution, independently at each position.

        The draw is an exponential race, argmax_k p_k / e_k with e_k exponential, which is what torch.multinomial does
        inside; unlike it, outputs that are not finite give a factor that is not finite instead of a dead CUDA context.
        """
        probabilities = outputs.detach().softmax(1)
        waiting = torch.empty_like(probabilities).exponential_(generator=generator)
        return self.label_factor(outputs, (probabilities / waiting).argmax(1))

    def label_factor(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The factor (p - onehot(label)) / sqrt(P) that a draw of `labels` ([N] or [N, *spatial]) gives.

        The loss is a mean over P positions, so its Hessian has the blocks (diag(p) - p p^T) / P, while the gradient of
        the mean has the second moment (diag(p) - p p^T) / P^2: hence sqrt(P) times the gradient of the mean.
        """
        probabilities = outputs.detach().softmax(1)
        drawn = torch.zeros_like(probabilities).scatter_(1, labels.unsqueeze(1), 1.0)
        return (probabilities - drawn) / math.sqrt(max(1, math.prod(outputs.shape[2:])))

    def hessian_factors(self, outputs: Tensor) -> Tensor:
        """The factors sqrt(p_k / P) (e_k - p), one for each class k at each of the P positions: R = K * P.

        Without spatial axes that is K. With them it is K * P factors of N * K * P numbers each, every one a backward
        pass: 21 classes at 64 x 64 positions are 86,016 of them, where `sample_factor` needs one.
        """
        count, classes, *spatial = outputs.shape
        positions = math.prod(spatial)
        logs = outputs.detach().reshape(count, classes, positions).log_softmax(1)
        one_hot = torch.eye(classes, dtype=logs.dtype, device=logs.device)[:, None, :, None]
        roots = (0.5 * logs).exp().permute(1, 0, 2).unsqueeze(2) / math.sqrt(max(1, positions))
        by_class = roots * (one_hot - logs.exp())  # [K, N, K, P]
        at_position = torch.eye(positions, dtype=logs.dtype, device=logs.device)[:, None, None, :]
        return (by_class.unsqueeze(1) * at_position).reshape(classes * positions, *outputs.shape)


@dataclass(frozen=True)
class MeanSquaredError:
    """Mean over all M entries of a sample of (output - target)^2; any shape, targets real and of the outputs' shape.

    >>> MeanSquaredError().per_sample(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).tolist()
    [5.0]
    """

    name: ClassVar[str] = "mse"
    curvatures: ClassVar[tuple[str, ...]] = ("exact", "mc", "rank1")

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample [N]; `targets` are converted to the dtype of `outputs`."""
        return _mean_over_entries((outputs - targets.to(outputs.dtype)).square())

    def check_targets(self, output_shape: Sequence[int], targets: Tensor) -> None:
        """Raise DataError unless `targets` are finite real numbers of shape `output_shape`."""
        _check_real(self.name, targets)
        _check_shape(output_shape, targets, output_shape)
        _check_values(~targets.isfinite(), targets, "target", "is not finite: remove the sample or repair its target")

    def sample_factor(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """sqrt(2 / M) times standard normal numbers: the Hessian is 2 / M times the identity."""
        noise = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
        return noise * math.sqrt(2 / _entries(outputs))

    def hessian_factors(self, outputs: Tensor) -> Tensor:
        """One factor for each entry, sqrt(2 / M) e_m: R = M. The samples share one memory of M^2 numbers."""
        rows = _entry_rows(outputs) * math.sqrt(2 / _entries(outputs))
        return rows.expand(-1, *outputs.shape)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of logits, mean over all M entries of a sample; targets in [0, 1] and of the outputs' shape.

    >>> BinaryCrossEntropy().per_sample(torch.zeros(1, 2), torch.tensor([[0, 1]]))
    tensor([0.6931])
    """

    name: ClassVar[str] = "bce-with-logits"
    curvatures: ClassVar[tuple[str, ...]] = ("exact", "mc", "rank1")

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample [N]; `targets` are converted to the dtype of `outputs`."""
        entries = functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return _mean_over_entries(entries)

    def check_targets(self, output_shape: Sequence[int], targets: Tensor) -> None:
        """Raise DataError unless `targets` are numbers in [0, 1] of shape `output_shape`."""
        _check_real(self.name, targets)
        _check_shape(output_shape, targets, output_shape)
        _check_values(
            ~((targets >= 0) & (targets <= 1)), targets, "target", "is not a probability: targets must lie in 0 to 1"
        )

    def sample_factor(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """`label_factor` at labels that are 1 with the predicted probability, drawn independently for each logit."""
        uniform = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
        return self.label_factor(outputs, uniform < outputs.detach().sigmoid())

    def label_factor(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The factor (p - label) / sqrt(M) that a draw of `labels` (0 or 1, the outputs' shape) gives.

        That is sqrt(M) times the gradient of the mean over M entries, see `CrossEntropy.label_factor`.
        """
        return (outputs.detach().sigmoid() - labels.to(outputs.dtype)) / math.sqrt(_entries(outputs))

    def hessian_factors(self, outputs: Tensor) -> Tensor:
        """One factor for each logit, sqrt(p_m (1 - p_m) / M) e_m: R = M, and N * M^2 numbers."""
        logits = outputs.detach()
        # 1 - p is taken as sigmoid(-x), which keeps its relative precision where p rounds to 1.
        roots = (logits.sigmoid() * (-logits).sigmoid() / _entries(outputs)).sqrt()
        return _entry_rows(outputs) * roots


@dataclass(frozen=True)
class CustomLoss:
    """A loss of the user's own.

    Attributes:
        name: what messages and records call it.
        function: maps (outputs [N, ...], targets [N, ...]) to the loss of each sample [N], differentiably.
        sampler: maps (outputs, generator) to one random cotangent a sample, see `Loss.sample_factor`. Without one
            only the curvature "rank1" is available, with one also "mc".

    >>> l1 = CustomLoss("l1", lambda outputs, targets: (outputs - targets).abs().sum(1))
    >>> l1.curvatures
    ('rank1',)
    >>> l1.sample_factor(torch.zeros(1, 1), torch.Generator())
    Traceback (most recent call last):
    gngraph.errors.GnGraphError: loss "l1" has no sampler, so only curvature "rank1" is available: ...
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    sampler: Callable[[Tensor, torch.Generator], Tensor] | None = None

    @property
    def curvatures(self) -> tuple[str, ...]:
        """Names of the curvature models available, the most accurate first."""
        return ("rank1",) if self.sampler is None else ("mc", "rank1")

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample [N]; raises GnGraphError when the function returns another shape."""
        losses = self.function(outputs, targets)
        if losses.shape != outputs.shape[:1]:
            raise GnGraphError(
                f'loss "{self.name}" returned shape "{_shown(losses.shape)}" for {len(outputs)} samples: '
                "it must return one number a sample, without reducing over the batch"
            )
        return losses

    def check_targets(self, output_shape: Sequence[int], targets: Tensor) -> None:
        """Raise DataError unless there is one target a sample; what it means is the function's own affair."""
        if targets.shape[:1] != torch.Size(output_shape[:1]):
            raise DataError(
                f'the targets have shape "{_shown(targets.shape)}", but the outputs have shape '
                f'"{_shown(output_shape)}": give one target a sample'
            )

    def sample_factor(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """What the sampler draws; raises GnGraphError without one, or when its shape is not that of the outputs."""
        if self.sampler is None:
            raise self._without_sampler()
        factor = self.sampler(outputs.detach(), generator).detach()
        if factor.shape != outputs.shape:
            raise GnGraphError(
                f'the sampler of loss "{self.name}" returned shape "{_shown(factor.shape)}" for outputs of shape '
                f'"{_shown(outputs.shape)}": the two must be equal'
            )
        return factor

    def hessian_factors(self, outputs: Tensor) -> Tensor:
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


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (CrossEntropy(), MeanSquaredError(), BinaryCrossEntropy())}


def loss_named(name: str) -> Loss:
    """The loss in `LOSSES` with this name; raises GnGraphError that lists the names for any other.

    >>> loss_named("mse")
    MeanSquaredError()
    """
    if name not in LOSSES:
        raise GnGraphError(f'unknown loss "{name}": choose one of {", ".join(LOSSES)}')
    return LOSSES[name]


def _entries(outputs: Tensor) -> int:
    """M, the number of output entries of one sample."""
    return max(1, math.prod(outputs.shape[1:]))


def _entry_rows(outputs: Tensor) -> Tensor:
    """The unit vectors e_m of one sample's entries, [M, 1, *outputs.shape[1:]]."""
    entries = math.prod(outputs.shape[1:])
    unit = torch.eye(entries, dtype=outputs.dtype, device=outputs.device)
    return unit.reshape(entries, 1, *outputs.shape[1:])


def _mean_over_entries(values: Tensor) -> Tensor:
    """[N, ...] -> [N]."""
    return values if values.dim() == 1 else values.flatten(1).mean(1)


def _check_real(loss: str, targets: Tensor) -> None:
    if targets.is_complex():
        raise DataError(f'{loss} needs real targets, but they are "{_dtype(targets)}": pass real numbers')


def _check_shape(expected: Sequence[int], targets: Tensor, output_shape: Sequence[int]) -> None:
    if tuple(targets.shape) != tuple(expected):
        raise DataError(
            f'the targets have shape "{_shown(targets.shape)}", but outputs of shape "{_shown(output_shape)}" need '
            f'targets of shape "{_shown(expected)}": reshape the targets or change the last layer'
        )


def _check_values(wrong: Tensor, targets: Tensor, noun: str, complaint: str) -> None:
    """Raise DataError about the first target where `wrong` is true."""
    if not wrong.any():
        return
    sample, *position = (int(index) for index in wrong.nonzero()[0])
    place = f"sample {sample}" + (f" at position {tuple(position)}" if position else "")
    raise DataError(f'{noun} "{targets[(sample, *position)].item()}" of {place} {complaint}')


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shown(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"
