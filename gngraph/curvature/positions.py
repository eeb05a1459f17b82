"""Cross-entropies of several positions a sample: pixels, and tokens that come next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gngraph.curvature.losses import CrossEntropy, shown
from gngraph.curvature.outputs import Outputs, one_tensor
from gngraph.errors import DataError


@dataclass(frozen=True)
class Segmentation(CrossEntropy):
    """`CrossEntropy` of the classes of pixels, logits [N, K, H, W] and labels [N, H, W], of which 255 says that nothing is known.

    >>> Segmentation().per_sample(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 255, 1]]], dtype=torch.uint8))
    tensor([0.6931])
    """

    name: ClassVar[str] = "segmentation"
    ignore_index: int | None = 255


@dataclass(frozen=True)
class NextToken(CrossEntropy):
    """`CrossEntropy` of logits [N, L, K], whose classes come last, with the next token of each of L positions, [N, L].

    The label -100 does not count, as is torch's custom for padding; for another number there is `NextToken(ignore_index=0)`.

    >>> NextToken().per_sample(torch.zeros(1, 3, 4), torch.tensor([[0, 3, 1]]))
    tensor([1.3863])
    """

    name: ClassVar[str] = "next-token"
    ignore_index: int | None = -100

    def arranged(self, outputs: Tensor) -> Tensor:
        """[N, K, L]."""
        return outputs.movedim(-1, 1)

    def per_sample(self, outputs: Outputs, targets: Any) -> Tensor:
        """The loss of each sample [N], the mean over its positions."""
        return super().per_sample(self._of(outputs), targets)

    def check_targets(self, outputs: Outputs, targets: Any) -> None:
        """Raise DataError unless `outputs` have a position for each of the `targets`, which are labels within the K classes."""
        super().check_targets(self._of(outputs), targets)

    def sample_factor(self, outputs: Outputs, targets: Any, generator: torch.Generator) -> Tensor:
        """As of the cross-entropy, [N, L, K]."""
        return super().sample_factor(self._of(outputs), targets, generator).movedim(1, -1)

    def hessian_factors(self, outputs: Outputs, targets: Any) -> Tensor:
        """As of the cross-entropy, [K * L, N, L, K]."""
        return super().hessian_factors(self._of(outputs), targets).movedim(2, -1)

    def _of(self, outputs: Outputs) -> Tensor:
        found = one_tensor(outputs, "outputs", self.name)
        if found.dim() != 3:
            raise DataError(
                f"next-token needs outputs [N, length, tokens], but they have shape {shown(found.shape)}: "
                f"use the loss cross-entropy for one label a sample"
            )
        return self.arranged(found)
