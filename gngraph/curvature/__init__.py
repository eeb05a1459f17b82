"""Losses and their Gauss-Newton models: everything about curvature that needs tensors only, and no graph.

`losses` gives a loss per sample and cotangents whose outer products are the Hessian of that loss with respect to the
network's outputs (`outputs`, and `gradients` by them), `positions` those of pixels and tokens, `composed` losses of the
user's own and sums over several outputs;
`models` turns them into a quadratic model of the loss change (Lawton, Galstyan, Ver Steeg, *Learning Morphisms with
Gauss-Newton Approximation for Growing Networks*, arXiv 2411.05855).
"""

from __future__ import annotations

from gngraph.curvature.composed import CustomLoss, Heads, LossLike, as_loss, parts_of
from gngraph.curvature.gradients import gradient, pull_back
from gngraph.curvature.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
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
from gngraph.curvature.named import LOSSES, loss_named
from gngraph.curvature.outputs import Outputs, leaves, replaced, unstacked
from gngraph.curvature.positions import NextToken, Segmentation
from gngraph.curvature.targets import class_targets, number_targets

__all__ = [
    "CURVATURES",
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Curvature",
    "CustomLoss",
    "Exact",
    "Heads",
    "Loss",
    "LossLike",
    "MeanSquaredError",
    "MonteCarlo",
    "NextToken",
    "Outputs",
    "RankOne",
    "Segmentation",
    "as_loss",
    "class_targets",
    "curvature_named",
    "fallback",
    "gradient",
    "leaves",
    "loss_named",
    "number_targets",
    "parts_of",
    "predicted_change",
    "pull_back",
    "replaced",
    "unstacked",
]
