"""Moment matrices made positive definite, before they are solved or factored."""

from __future__ import annotations

import torch

DAMPING = 0.3
"""Share of its mean eigenvalue that is added to each eigenvalue of a Kronecker factor."""


def damped(matrix: torch.Tensor, share: float = DAMPING) -> torch.Tensor:
    """`matrix`, positive semidefinite [..., n, n], with `share` of its mean eigenvalue added to each."""
    return matrix + share * mean_eigenvalue(matrix) * torch.eye(matrix.shape[-1]).to(matrix)


def mean_eigenvalue(matrix: torch.Tensor) -> torch.Tensor:
    """Mean of the diagonal of a matrix [..., n, n], as [..., 1, 1], and never 0."""
    return matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-30)[..., None, None]
