"""Theorems 1 and 2 of arXiv 2411.05855: where the rank-1 model of a least-squares loss is exact.

The loss is l(z) = 1/2 |A z - b|^2 and the model l(z + D) ~ l + s + s^2 / (4 l) with s = <grad l, D>.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gngraph.curvature import CustomLoss, RankOne, predicted_change

FLOAT = torch.float64
SAMPLES = 6


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def least_squares(matrix: Tensor) -> CustomLoss:
    """1/2 |A z - b|^2 for outputs z [N, H] and targets b [N, M]."""
    return CustomLoss("least-squares", lambda z, b: 0.5 * (z @ matrix.T - b).square().sum(1))


def predicted_and_actual(matrix: Tensor, z: Tensor, b: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    loss = least_squares(matrix)
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.per_sample(leaf, b).sum(), leaf)
    factors = RankOne().factors(loss, z, b, torch.Generator())
    predicted = predicted_change((gradient * change).sum(1), (factors * change).sum(2))
    return predicted, loss.per_sample(z + change, b) - loss.per_sample(z, b)


def test_theorem_1_exact_along_the_direction_to_a_solution() -> None:
    matrix, z, step = random(4, 7, seed=0), random(SAMPLES, 7, seed=1), random(SAMPLES, 7, seed=2)
    b = (z + step) @ matrix.T  # so that A (z + D*) = b
    for scale in (-1.5, -0.1, 1e-3, 0.5, 1.0, 3.0):
        predicted, actual = predicted_and_actual(matrix, z, b, scale * step)
        torch.testing.assert_close(predicted, actual, rtol=1e-11, atol=1e-11)


def test_theorem_1_needs_the_direction() -> None:
    """Elsewhere the model is wrong when A has a higher rank, so the theorem says something."""
    matrix, z, step = random(4, 7, seed=0), random(SAMPLES, 7, seed=1), random(SAMPLES, 7, seed=2)
    b = (z + step) @ matrix.T
    predicted, actual = predicted_and_actual(matrix, z, b, random(SAMPLES, 7, seed=3))
    assert ((predicted - actual).abs() > 0.1 * actual.abs()).all()
    assert (predicted < actual).all()  # s^2 / (4 l) is at most the true curvature, by Cauchy-Schwarz


def test_theorem_2_exact_for_every_change_when_a_has_rank_1() -> None:
    matrix = random(4, 1, seed=0) @ random(1, 7, seed=4)
    z = random(SAMPLES, 7, seed=1)
    b = random(SAMPLES, 7, seed=5) @ matrix.T  # A z = b has a solution
    for seed in range(10, 20):
        predicted, actual = predicted_and_actual(matrix, z, b, random(SAMPLES, 7, seed=seed))
        torch.testing.assert_close(predicted, actual, rtol=1e-11, atol=1e-11)
