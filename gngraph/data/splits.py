"""The learn, judge and report splits: a morphism is never scored on samples that it was learned on, nor a network that knows them.

A network that was trained to the end knows its training samples by heart: what a change would do to them is not what it does to
others. So the judge and the report split are withheld from training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from gngraph.data.batches import MapDataset
from gngraph.data.dataset import HeldDataset, Sample, SampleDataset
from gngraph.errors import DataError

SMALLEST_SPLIT = 8  # samples; below this a mean over a split says nothing

WITHHELD_SHARE, LEAST_JUDGED, MOST_JUDGED = 0.15, 32, 2048
"""Share of a training set that its judge and report split have together, and bounds of the samples of either; of few samples
they have a third, if that is less than the lower bound (docs/results.md#withheld-samples)."""


@dataclass(frozen=True)
class Splits:
    """Three disjoint random parts of the samples.

    Attributes:
        learn: morphisms are learned on it; of the samples that networks are trained on.
        judge: step sizes and the selection are decided on it.
        report: predicted and actual change of the loss are measured on it, and nothing is decided.
    """

    learn: Subset[Sample]
    judge: Subset[Sample]
    report: Subset[Sample]

    def __iter__(self) -> Iterator[Subset[Sample]]:
        return iter((self.learn, self.judge, self.report))


def by_size(samples: int) -> int:
    """Samples of the judge split, and of the report split, of a training set of `samples`, where nobody says how many.

    >>> [by_size(samples) for samples in (24, 120, 1000, 50_000)]
    [8, 20, 75, 2048]
    """
    return max(
        SMALLEST_SPLIT, min(MOST_JUDGED, max(round(WITHHELD_SHARE / 2 * samples), min(LEAST_JUDGED, samples // 6)))
    )


def make_splits(
    dataset: MapDataset, learn: int, judge: int, report: int, seed: int, unseen: MapDataset | None = None
) -> Splits:
    """Draws the three splits; the same arguments give the same splits.

    Where the labels are known without reading the samples, each split has each class in the proportion of the whole
    data set, up to rounding. When the data set has fewer samples than asked for, each split keeps 8 of them and the
    rest is shared in the proportion asked for. Which samples the judge and the report split have together does not depend
    on the seed, and of fewer they have a part: a network that was trained without them has not seen them, whatever its seed.

    Args:
        dataset: the training set; the test set is never split.
        learn: samples to learn on.
        judge: samples to judge on.
        report: samples to report on.
        seed: of the draw.
        unseen: samples beside the training set, of which the judge and the report split are drawn instead.

    Raises:
        DataError: if a size is below 8 samples or the data set holds fewer than 24, or 8 and `unseen` 16.

    Example:
        >>> numbers = TensorDataset(torch.zeros(100, 1), torch.arange(100) % 2)
        >>> [len(split) for split in make_splits(numbers, 400, 200, 200, seed=0)]
        [46, 26, 26]
    """
    whole = cast("Dataset[Sample]", dataset)
    if unseen is None:
        sizes = _affordable({"learn": learn, "judge": judge, "report": report}, len(dataset), "training set")
        order = _order(whole, 0)
        apart = len(order) - sizes["judge"] - sizes["report"]
        seen, withheld = Subset(whole, order[:apart]), Subset(whole, order[apart:])
    else:
        sizes = _affordable({"learn": learn}, len(dataset), "training set")
        sizes |= _affordable({"judge": judge, "report": report}, len(unseen), "set of unseen samples")
        other = cast("Dataset[Sample]", unseen)
        seen, withheld = Subset(whole, _order(whole, 0)), Subset(other, _order(other, 0))
    (learned,) = _drawn(seen, (sizes["learn"],), seed)
    return Splits(learned, *_drawn(withheld, (sizes["judge"], sizes["report"]), seed))


def _drawn(samples: Subset[Sample], sizes: tuple[int, ...], seed: int) -> list[Subset[Sample]]:
    """Disjoint random parts of some samples of a data set, which are in the order of the seed 0."""
    order = _order(samples, seed) if seed else range(len(samples))
    return [
        Subset(samples.dataset, [samples.indices[i] for i in order[end - size : end]])
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]


def _order(samples: Dataset[Sample], seed: int) -> list[int]:
    drawn: list[int] = _spread_order(
        len(cast(MapDataset, samples)), labels_of(samples), torch.Generator().manual_seed(seed)
    ).tolist()
    return drawn


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
    [0, 4]
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


def _affordable(wanted: Mapping[str, int], available: int, where: str) -> dict[str, int]:
    for name, size in wanted.items():
        if size < SMALLEST_SPLIT:
            raise DataError(
                f"the '{name}' split of '{size}' samples is too small: it needs at least {SMALLEST_SPLIT} samples"
            )
    least, total = len(wanted) * SMALLEST_SPLIT, sum(wanted.values())
    if available < least:
        raise DataError(
            f"a {where} of '{available}' samples is too small to {', '.join(wanted)} on disjoint samples: it needs at least "
            f"{least}"
        )
    if total <= available:
        return dict(wanted)
    # Beyond the minimum of each split the rest is shared in proportion, rounded down, so the sum never exceeds it.
    spare, asked = available - least, total - least
    return {name: SMALLEST_SPLIT + (size - SMALLEST_SPLIT) * spare // asked for name, size in wanted.items()}


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
