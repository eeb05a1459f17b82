"""Losses per sample, with factors of their Hessian with respect to the network's outputs.

Every factor is a *cotangent*: a tensor v of the shape of the outputs, ready to be sent backwards through the network, or
as many as a network that returns several has (see `gngraph.curvature.outputs`). With H_i the Hessian of sample i's loss
with respect to its own outputs, `sample_factor` draws one v_i with E[v_i v_i^T] = H_i, and `hessian_factors` lists
v_i1 ... v_iR with sum_r v_ir v_ir^T = H_i. For the three losses built in, H_i does not depend on the target, but for the
positions that `CrossEntropy.ignore_index` leaves out.

Outputs are float32 or float64 on any device; results have their dtype and device, and factors carry no gradient.
Random numbers come from the generator passed in, which must live on the device of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gngraph.curvature.outputs import Outputs, one_tensor
from gngraph.curvature.targets import class_targets, number_targets
from gngraph.errors import DataError

SHARES = 1e-3
"""How far the shares of classes of a sample may be from a sum of 1."""


class Loss(Protocol):
    """A loss that is a mean over independent samples.

    Outputs are what the network returns, [N, ...] a tensor; targets a tensor, or tuples, lists and dictionaries of tensors.
    """

    @property
    def name(self) -> str:
        """What messages and records call the loss."""
        ...

    @property
    def curvatures(self) -> tuple[str, ...]:
        """Names of the curvature models available for this loss, the most accurate first."""
        ...

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The loss of each sample [N], differentiable in `outputs`."""
        ...

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless `targets` fit `outputs`, of which only the shapes are read.

        It waits for the device, so call it once a data set and not once a batch.
        """
        ...

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """One random cotangent a sample, shaped like `outputs`, whose second moment is the Hessian.

        Args:
            outputs: what the network gave for N samples.
            targets: of the same samples, as `per_sample` reads them.
            generator: of the outputs' device.
        """
        ...

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Outputs:
        """Cotangents whose outer products sum to the Hessian, stacked: [R, *shape] for each tensor.

        They are read-only, since entries may share memory.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of logits [N, K] or [N, K, *spatial] with labels [N] or [N, *spatial], mean over positions.

    Labels are integers of any type, with or without an axis of length 1 for the classes. Targets of the outputs' own shape are
    shares of classes: one-hot, or soft ones that sum to 1.

    Attributes:
        ignore_index: a label that says nothing is known: its positions count neither in a sample's mean nor in the number
            of positions that it is a mean over. A sample of which every position is ignored has the loss 0.

    >>> loss = CrossEntropy()
    >>> logits = torch.zeros(2, 4)
    >>> loss.per_sample(logits, torch.tensor([0, 3]))
    tensor([1.3863, 1.3863])
    >>> loss.hessian_factors(logits, torch.tensor([0, 3])).shape
    torch.Size([4, 2, 4])
    >>> loss.check_targets(logits, torch.tensor([0, 4]))
    Traceback (most recent call last):
    gngraph.errors.DataError: label "4" of sample 1 is out of range for 4 classes: labels must lie in 0 to 3
    >>> CrossEntropy(ignore_index=255).per_sample(torch.zeros(1, 2, 3), torch.tensor([[0, 255, 255]]))
    tensor([0.6931])
    """

    name: ClassVar[str] = "cross-entropy"
    curvatures: ClassVar[tuple[str, ...]] = ("exact", "mc", "rank1")
    ignore_index: int | None = None

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The loss of each sample [N], the mean over its positions."""
        outputs, targets = self._read(outputs, targets)
        losses = functional.cross_entropy(outputs, targets, ignore_index=self._ignored, reduction="none")
        return (losses * self._shares(outputs, targets)).unsqueeze(1).flatten(1).sum(1)

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless `targets` are labels within the K classes of `outputs`, or shares of these."""
        outputs, targets = self._read(outputs, targets)
        if outputs.dim() < 2 or outputs.shape[1] < 2:
            raise DataError(
                "cross-entropy needs outputs [N, classes, ...] with at least 2 classes, but they have shape "
                f'"{shown(outputs.shape)}": '
                'use the loss "bce-with-logits" for a single logit'
            )
        if targets.shape == outputs.shape:
            wrong = (targets.sum(1, keepdim=True) - 1).abs().expand_as(targets) > SHARES
            _check_values(wrong | (targets < 0), targets, "share", "is none of shares that are 0 or more and sum to 1")
            return
        if targets.dtype != torch.int64:
            raise DataError(
                f'cross-entropy needs int64 class labels, but the targets are "{_dtype(targets)}": '
                "convert them with .long()"
            )
        _check_shape((outputs.shape[0], *outputs.shape[2:]), targets, outputs.shape)
        classes = outputs.shape[1]
        _check_values(
            ((targets < 0) | (targets >= classes)) & self.counted(targets),
            targets,
            "label",
            f"is out of range for {classes} classes: labels must lie in 0 to {classes - 1}",
        )

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Tensor:
        """`sign_factor` at random signs, one for each class at each position.

        A draw of a label from the predicted distribution has the same second moment. Where a class is improbable, its
        gradient is then rarely drawn and large: with one other class of probability p the variance of the squared effect
        is of the order p, with signs of the order p^3.
        """
        outputs, targets = self._read(outputs, targets)
        return self.sign_factor(outputs, targets, _signs(outputs, generator))

    def sign_factor(self, outputs: Tensor, targets: Tensor, signs: Tensor) -> Tensor:
        """The factor sum_k signs_k sqrt(p_k / P) (e_k - p) that `signs` (-1 or 1, of the outputs' shape) give.

        The loss is a mean over P positions, so its Hessian has the blocks (diag(p) - p p^T) / P. Of the targets only
        matters which positions count.

        Args:
            outputs: logits [N, K] or [N, K, *spatial].
            targets: labels int64 [N] or [N, *spatial].
            signs: -1 or 1, of the outputs' shape.
        """
        logs = outputs.detach().log_softmax(1)
        roots = (0.5 * logs).exp() * signs
        drawn = roots - logs.exp() * roots.sum(1, keepdim=True)
        return drawn * self._shares(outputs, targets).sqrt().unsqueeze(1)

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Tensor:
        """The factors sqrt(p_k / P) (e_k - p), one for each class k at each position: R = K times the positions.

        Without spatial axes that is K. With them it is K * P factors of N * K * P numbers each, every one a backward
        pass: 21 classes at 64 x 64 positions are 86,016 of them, where `sample_factor` needs one.
        """
        logits, labels = self._read(outputs, targets)
        count, classes, *spatial = logits.shape
        positions = math.prod(spatial)
        logs = logits.detach().reshape(count, classes, positions).log_softmax(1)
        one_hot = torch.eye(classes, dtype=logs.dtype, device=logs.device)[:, None, :, None]
        share = self._shares(logits, labels).reshape(count, 1, positions)
        roots = ((0.5 * logs).exp() * share.sqrt()).permute(1, 0, 2).unsqueeze(2)
        by_class = roots * (one_hot - logs.exp())  # [K, N, K, P]
        at_position = torch.eye(positions, dtype=logs.dtype, device=logs.device)[:, None, None, :]
        return (by_class.unsqueeze(1) * at_position).reshape(classes * positions, *logits.shape)

    def arranged(self, outputs: Tensor) -> Tensor:
        """Outputs with their classes on axis 1, where the loss has them elsewhere."""
        return outputs

    def counted(self, targets: Tensor) -> Tensor:
        """Which positions of labels are not ignored: bool, of their shape; of shares of classes all positions count."""
        if targets.is_floating_point():
            return torch.ones_like(targets[:, 0], dtype=torch.bool)
        return targets != self._ignored

    def _read(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        logits, given = _tensors(self.name, outputs, targets)
        return logits, class_targets(logits, given)

    @property
    def _ignored(self) -> int:
        return torch.iinfo(torch.int64).min if self.ignore_index is None else self.ignore_index

    def _shares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What each position counts in its sample's mean, [N, *spatial]: 1 / P, or 0 where it is ignored."""
        counted = self.counted(targets).to(outputs.dtype)
        total = counted.unsqueeze(1).flatten(1).sum(1).clamp(min=1)
        return counted / total.reshape(-1, *[1] * (counted.dim() - 1))


@dataclass(frozen=True)
class MeanSquaredError:
    """Mean over all M entries of a sample of (output - target)^2; any shape, targets real and of the outputs' shape.

    Axes of length 1 may be there or not, also for the binary cross-entropy: targets [N] are read for outputs [N, 1].

    >>> MeanSquaredError().per_sample(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).tolist()
    [5.0]
    """

    name: ClassVar[str] = "mse"
    curvatures: ClassVar[tuple[str, ...]] = ("exact", "mc", "rank1")

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The loss of each sample [N]; `targets` are converted to the dtype of `outputs`."""
        outputs, targets = _numbers(self.name, outputs, targets)
        return _mean_over_entries((outputs - targets.to(outputs.dtype)).square())

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless `targets` are finite real numbers of the shape of `outputs`."""
        outputs, targets = _numbers(self.name, outputs, targets)
        _check_real(self.name, targets)
        _check_shape(outputs.shape, targets, outputs.shape)
        _check_values(~targets.isfinite(), targets, "target", "is not finite: remove the sample or repair its target")

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Tensor:
        """sqrt(2 / M) times random signs: the Hessian is 2 / M times the identity."""
        outputs, targets = _numbers(self.name, outputs, targets)
        return _signs(outputs, generator) * math.sqrt(2 / _entries(outputs))

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Tensor:
        """One factor for each entry, sqrt(2 / M) e_m: R = M. The samples share one memory of M^2 numbers."""
        outputs, targets = _numbers(self.name, outputs, targets)
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

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The loss of each sample [N]; `targets` are converted to the dtype of `outputs`."""
        outputs, targets = _numbers(self.name, outputs, targets)
        entries = functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return _mean_over_entries(entries)

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless `targets` are numbers in [0, 1] of the shape of `outputs`."""
        outputs, targets = _numbers(self.name, outputs, targets)
        _check_real(self.name, targets)
        _check_shape(outputs.shape, targets, outputs.shape)
        _check_values(
            ~((targets >= 0) & (targets <= 1)), targets, "target", "is not a probability: targets must lie in 0 to 1"
        )

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Tensor:
        """sqrt(p (1 - p) / M) times random signs, see `CrossEntropy.sample_factor`; `targets` play no part."""
        outputs = _numbers(self.name, outputs, targets)[0].detach()
        return _signs(outputs, generator) * self._roots(outputs)

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Tensor:
        """One factor for each logit, sqrt(p_m (1 - p_m) / M) e_m: R = M, and N * M^2 numbers."""
        logits = _numbers(self.name, outputs, targets)[0].detach()
        return _entry_rows(logits) * self._roots(logits)

    def _roots(self, logits: Tensor) -> Tensor:
        # 1 - p is taken as sigmoid(-x), which keeps its relative precision where p rounds to 1.
        return (logits.sigmoid() * (-logits).sigmoid() / _entries(logits)).sqrt()


def _tensors(loss: str, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
    return one_tensor(outputs, "outputs", loss), one_tensor(targets, "targets", loss)


def _numbers(loss: str, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
    found, given = _tensors(loss, outputs, targets)
    return found, number_targets(found, given)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1 with equal probability, independent entries in the shape, dtype and device of `like`."""
    bits = torch.randint(2, like.shape, generator=generator, device=like.device)
    return (2 * bits - 1).to(like.dtype)


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
            f'the targets have shape "{shown(targets.shape)}", but outputs of shape "{shown(output_shape)}" need '
            f'targets of shape "{shown(expected)}": reshape the targets or change the last layer'
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


def shown(shape: Sequence[int]) -> str:
    """A shape in messages, such as 8x10; "scalar" for that of a single number."""
    return "x".join(str(size) for size in shape) or "scalar"
