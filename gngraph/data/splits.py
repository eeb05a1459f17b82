"""The learn, judge and report splits: a morphism is never scored on samples that it was learned on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from gngraph.data.batches import MapDataset
from gngraph.data.dataset import HeldDataset, Sample, SampleDataset
from gngraph.errors import DataError

SMALLEST_SPLIT = 8  # samples; below this a mean over a split says nothing


@dataclass(frozen=True)
class Splits:
    """Three disjoint random parts of a training set.

    Attributes:
        learn: morphisms are learned on it.
        judge: step sizes and the selection are decided on it.
        report: predicted and actual change of the loss are measured on it, and nothing is decided.
    """

    learn: Subset[Sample]
    judge: Subset[Sample]
    report: Subset[Sample]

    def __iter__(self) -> Iterator[Subset[Sample]]:
        return iter((self.learn, self.judge, self.report))


def make_splits(dataset: MapDataset, learn: int, judge: int, report: int, seed: int) -> Splits:
    """Draws the three splits; the same arguments give the same splits.

    Where the labels are known without reading the samples, each split has each class in the proportion of the whole
    data set, up to rounding. When the data set has fewer samples than asked for, each split keeps 8 of them and the
    rest is shared in the proportion asked for.

    Args:
        dataset: the training set; the test set is never split.
        learn: samples to learn on.
        judge: samples to judge on.
        report: samples to report on.
        seed: of the draw.

    Raises:
        DataError: if a size is below 8 samples or the data set holds fewer than 24.

    Example:
        >>> numbers = TensorDataset(torch.zeros(100, 1), torch.arange(100) % 2)
        >>> [len(split) for split in make_splits(numbers, 400, 200, 200, seed=0)]
        [46, 26, 26]
    """
    sizes = _affordable((learn, judge, report), len(dataset))
    generator = torch.Generator().manual_seed(seed)
    order = _spread_order(len(dataset), labels_of(dataset), generator).tolist()
    first, second, third = sizes
    whole = cast("Dataset[Sample]", dataset)
    return Splits(
        learn=Subset(whole, order[:first]),
        judge=Subset(whole, order[first : first + second]),
        report=Subset(whole, order[first + second : first + second + third]),
    )


def held_out(labels: Tensor, share: float) -> tuple[list[int], list[int]]:
    """Draws the samples of a data set without a test part that are not trained on; the same labels give the same draw.

    Args:
        labels: int64 [N], of which each class is held out in proportion; or targets float [N, K].
        share: of the samples, above 0 and below 1.

    Returns:
        The rows that stay, and those that are held out, at least one of each.

    Raises:
        DataError: there is one sample.

    >>> held_out(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25)[1]
    [0, 6]
    """
    if len(labels) < 2:
        raise DataError("the data has one sample and no test part: one to train on and one to test are needed at least")
    order = _spread_order(len(labels), labels, torch.Generator().manual_seed(0)).tolist()
    count = min(max(round(share * len(labels)), 1), len(labels) - 1)
    return sorted(order[count:]), sorted(order[:count])


def labels_of(dataset: object) -> Tensor | None:
    """Returns the labels of a data set if they are known without reading its samples, else None.

    Args:
        dataset: of gngraph, a `Subset` of such, a `TensorDataset`, or one with torchvision's `targets`.

    Returns:
        int64 [N] for classes, float [N, K] for a regression.
    """
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, SampleDataset):
        return dataset.labels
    if isinstance(dataset, HeldDataset):
        return dataset.y if isinstance(dataset.y, Tensor) else None
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    targets = getattr(dataset, "targets", None)
    return torch.as_tensor(targets) if isinstance(targets, (list, Tensor)) else None


def _affordable(wanted: tuple[int, int, int], available: int) -> tuple[int, int, int]:
    for name, size in zip(("learn", "judge", "report"), wanted, strict=True):
        if size < SMALLEST_SPLIT:
            raise DataError(
                f"the '{name}' split of '{size}' samples is too small: it needs at least {SMALLEST_SPLIT} samples"
            )
    if available < 3 * SMALLEST_SPLIT:
        raise DataError(
            f"a training set of '{available}' samples is too small to learn, judge and report on disjoint samples: "
            f"it needs at least {3 * SMALLEST_SPLIT}"
        )
    total = sum(wanted)
    if total <= available:
        return wanted
    # Beyond the minimum of each split the rest is shared in proportion, rounded down, so the sum never exceeds it.
    spare, asked = available - 3 * SMALLEST_SPLIT, total - 3 * SMALLEST_SPLIT
    learn, judge, report = (SMALLEST_SPLIT + (size - SMALLEST_SPLIT) * spare // asked for size in wanted)
    return learn, judge, report


def _spread_order(count: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
    """A random order of all samples in which every stretch has each class in about its overall proportion.

    Within a class of n samples the sample of random rank r gets the key (r + u) / n with u uniform in 0..1; sorting
    by key interleaves the classes evenly.
    """
    shuffled = torch.randperm(count, generator=generator)
    if labels is None or labels.is_floating_point() or labels.ndim != 1:
        return shuffled
    keys = torch.empty(count, dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        members = (labels[shuffled] == label).nonzero().flatten()
        jitter = torch.rand(len(members), generator=generator, dtype=torch.float64)
        keys[members] = (torch.arange(len(members)) + jitter) / len(members)
    return shuffled[keys.argsort(stable=True)]
