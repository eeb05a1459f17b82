"""Quadratic models of the change of a loss under a change D of an activation.

A curvature model gives cotangents v_r at the network's outputs. With J the Jacobian from the activation to the outputs,
s_i = <grad l_i, J_i D_i> and q_ir = <v_ir, J_i D_i>, one backward pass a cotangent, the model is

    l_i(a + D)  ~  l_i + s_i + 1/2 sum_r q_ir^2

`Exact` gives the generalised Gauss-Newton term itself, `MonteCarlo` an unbiased estimate of it from one pass a draw,
and `RankOne` the model of the paper (arXiv 2411.05855, Theorems 1 and 2), which needs only the loss and its gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gngraph.curvature.gradients import gradient
from gngraph.curvature.losses import Loss
from gngraph.curvature.outputs import Outputs, leaves, replaced
from gngraph.errors import GnGraphError
from gngraph.options.text import Vocabulary, written


class Curvature(Protocol):
    """A choice of curvature model; `str` gives the text that `curvature_named` reads back."""

    @property
    def name(self) -> str:
        """The name the model goes by in `CURVATURES` and on the command line, without options."""
        ...

    def factors(self, loss: Loss, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """The cotangents v_r, shaped like `outputs` with [R, *shape] for each tensor.

        They have no gradient, and the dtype and device of `outputs`.

        Args:
            loss: whose Hessian is modelled, in the outputs.
            outputs: what the network gave for N samples.
            targets: of the same samples.
            generator: of the outputs' device, for models that draw.
        """
        ...

    def count(self, loss: Loss, outputs: Outputs, targets: Any) -> int:
        """R, without the factors.

        Args:
            loss: whose Hessian is modelled.
            outputs: what the network gave for some samples.
            targets: of the same samples.
        """
        ...


@dataclass(frozen=True)
class MonteCarlo:
    """The Gauss-Newton term, sampled: `draws` backward passes whatever the number of outputs; unbiased.

    One draw is enough for scores that are means over many samples, since the noise averages out with them.

    >>> str(MonteCarlo()), str(MonteCarlo(draws=4))
    ('mc', 'mc{draws=4}')
    """

    name: ClassVar[str] = "mc"
    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise GnGraphError(f"curvature 'mc' cannot take '{self.draws}' draws: draws must be at least 1")

    def factors(self, loss: Loss, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """Draws of `loss.sample_factor` over sqrt(draws): R = draws."""
        draws = [leaves(loss.sample_factor(outputs, targets, generator)) for _ in range(self.draws)]
        stacks = {path: torch.stack([draw[path] for draw in draws]) / math.sqrt(self.draws) for path in draws[0]}
        return replaced(outputs, stacks)

    def count(self, loss: Loss, outputs: Outputs, targets: Any) -> int:
        """The draws."""
        return self.draws

    def __str__(self) -> str:
        return written(self)


@dataclass(frozen=True)
class Exact:
    """The Gauss-Newton term itself: as many backward passes as the loss has factors (classes, or output entries)."""

    name: ClassVar[str] = "exact"

    def factors(self, loss: Loss, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """`loss.hessian_factors`; `generator` plays no part."""
        return loss.hessian_factors(outputs, targets)

    def count(self, loss: Loss, outputs: Outputs, targets: Any) -> int:
        """As many as the loss gives for tensors that have shapes alone; a loss that reads numbers is asked for a sample."""
        first = tree_map_only(Tensor, lambda tensor: tensor.detach()[:1], (outputs, targets))
        try:
            factors = loss.hessian_factors(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), first))
        except (RuntimeError, NotImplementedError):
            factors = loss.hessian_factors(*first)
        return len(next(iter(leaves(factors).values())))

    def __str__(self) -> str:
        return written(self)


@dataclass(frozen=True)
class RankOne:
    """The paper's model: sqrt(l_i) linearised, so that l_i(a + D) ~ l_i + s_i + s_i^2 / (4 l_i).

    It needs a loss that is never negative and no sampler. `FLOOR` times the mean loss of the batch stands in for losses
    below it, because rounding of the gradient would otherwise be divided by a loss of about nothing; the model is then
    too flat for such a sample, by an amount that cannot matter to the mean. A batch whose losses are all 0 gives 0.
    """

    name: ClassVar[str] = "rank1"
    FLOOR: ClassVar[float] = 1e-8

    def factors(self, loss: Loss, outputs: Outputs, targets: Any, generator: torch.Generator) -> Outputs:
        """grad l_i / sqrt(2 l_i), R = 1; raises GnGraphError when a loss is negative. `generator` plays no part."""
        losses, slope = gradient(loss, outputs, targets)
        negative = losses < 0
        if negative.any():
            sample = int(negative.nonzero()[0])
            raise GnGraphError(
                f'curvature "rank1" needs losses of at least 0, but loss "{loss.name}" is "{losses[sample].item():g}" '
                f"for sample {sample}: choose another curvature, or shift the loss by a constant"
            )
        floored = torch.maximum(losses, self.FLOOR * losses.mean())
        scale = torch.where(floored == 0, torch.zeros_like(floored), (2 * floored).rsqrt())
        factors = {
            path: (part * scale.reshape(-1, *[1] * (part.dim() - 1))).unsqueeze(0)
            for path, part in leaves(slope).items()
        }
        return replaced(outputs, factors)

    def count(self, loss: Loss, outputs: Outputs, targets: Any) -> int:
        """1."""
        return 1

    def __str__(self) -> str:
        return written(self)


CURVATURES: dict[str, type[MonteCarlo] | type[Exact] | type[RankOne]] = {
    MonteCarlo.name: MonteCarlo,
    Exact.name: Exact,
    RankOne.name: RankOne,
}

MODELS = Vocabulary("curvature", CURVATURES, GnGraphError)


def curvature_named(text: str) -> Curvature:
    """The curvature model that `text` names, with its options; raises GnGraphError that lists the choices.

    >>> curvature_named("mc{draws=4}")
    MonteCarlo(draws=4)
    >>> curvature_named("ggn")
    Traceback (most recent call last):
    gngraph.errors.GnGraphError: there is no curvature 'ggn'; choose from exact, mc, rank1 (at character 1 of ...
    """
    return MODELS.one(text)


def fallback(loss: Loss, curvature: Curvature) -> tuple[Curvature, str | None]:
    """`curvature` and None where the loss supports it, else the best it does support and a note that says so.

    >>> from gngraph.curvature import CustomLoss
    >>> fallback(CustomLoss("l1", lambda outputs, targets: (outputs - targets).abs()), MonteCarlo())
    (RankOne(), 'loss "l1" does not support curvature "mc": "rank1" is used instead')
    """
    if curvature.name in loss.curvatures:
        return curvature, None
    best = CURVATURES[loss.curvatures[0]]()
    return best, f'loss "{loss.name}" does not support curvature "{curvature}": "{best}" is used instead'


def predicted_change(s: Tensor, q: Tensor) -> Tensor:
    """s + 1/2 sum_r q_r^2, the modelled change of loss: s [...], q [R, ...] -> [...].

    >>> predicted_change(torch.tensor([-1.0]), torch.tensor([[1.0], [2.0]])).tolist()
    [1.5]
    """
    return s + 0.5 * q.square().sum(0)
