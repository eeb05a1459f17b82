"""How the samples of a problem are augmented, as far as its data and its loss allow."""

from __future__ import annotations

from typing import Any

import torch

from gngraph.curvature import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Segmentation
from gngraph.data import Augment, Data, MapDataset, Preprocess, labels_of
from gngraph.data.arrays import LARGEST_BYTE
from gngraph.data.augmentations import Setting, TargetKind, augmentation
from gngraph.data.inputs import parted


def augmentation_for(given: tuple[Any, ...], data: Any, samples: MapDataset, loss: Loss) -> Augment | None:
    """What changes the batches that networks are trained on; None: nothing.

    Args:
        given: the augmentations, as `gngraph.data.augmentations.parsed` gives them.
        data: whose they are.
        samples: its training samples.
        loss: reads their targets.

    Raises:
        DataError: one of them is nothing for this data or loss.
    """
    if not given:
        return None
    found = data.preprocess if isinstance(data, Data) else None
    stored = found if isinstance(found, Preprocess) and found.scale == LARGEST_BYTE and len(found.shape) == 3 else None
    shape = data.input_shape if isinstance(data, Data) and data.input_shape else _shape(samples)
    targets = _targets(loss)
    classes = _classes(data, samples) if targets == "classes" else None
    return augmentation(given, Setting(shape, stored, loss.name, targets, classes, getattr(data, "augment", None)))


def _shape(samples: MapDataset) -> tuple[int, ...] | None:
    """Of a sample; None where that has several inputs."""
    x, _ = parted(samples[0])
    return tuple(x.shape) if isinstance(x, torch.Tensor) else None


def _targets(loss: Loss) -> TargetKind:
    if isinstance(loss, Segmentation):
        return "masks"
    if type(loss) is CrossEntropy and loss.ignore_index is None:
        return "classes"
    if isinstance(loss, BinaryCrossEntropy):
        return "answers"
    return "numbers" if isinstance(loss, MeanSquaredError) else "others"


def _classes(data: Any, samples: MapDataset) -> int | None:
    """How many classes labels name; None where they are shares of classes, or not known without reading all samples."""
    labels = labels_of(samples)
    if labels is None or labels.is_floating_point() or labels[0].numel() > 1:
        return None
    return len(data.classes) if isinstance(data, Data) and data.classes else int(labels.max()) + 1
