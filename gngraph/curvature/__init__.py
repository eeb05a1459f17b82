"""Losses and their Gauss-Newton models: everything about curvature that needs tensors only, and no graph.

`losses` gives a loss per sample and cotangents whose outer products are the Hessian of that loss with respect to the
network's outputs; `models` turns them into a quadratic model of the loss change (Lawton, Galstyan, Ver Steeg,
*Learning Morphisms with Gauss-Newton Approximation for Growing Networks*, arXiv 2411.05855).
"""

from __future__ import annotations

from gngraph.curvature.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Loss,
    MeanSquaredError,
    loss_named,
)
from gngraph.curvature.models import (
    CURVATURES,
    Curvature,
    Exact,
    MonteCarlo,
    RankOne,
    curvature_named,
    fallback,
    predicted_change,
)

__all__ = [
    "CURVATURES",
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Curvature",
    "CustomLoss",
    "Exact",
    "Loss",
    "MeanSquaredError",
    "MonteCarlo",
    "RankOne",
    "curvature_named",
    "fallback",
    "loss_named",
    "predicted_change",
]
