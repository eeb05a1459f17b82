"""Data sets held in memory, how their samples become network inputs, and the record that joins train and test."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gngraph.data.augment import Augment
from gngraph.data.preprocess import Preparation

Targets = Any
"""A tensor, or tuples, lists and dictionaries of tensors."""

Sample = tuple[Tensor, Targets]


class SampleBatch(Sequence[Sample]):
    """Many samples as two tensors, which also reads as a sequence of (x, y) pairs.

    torch's fetcher hands the result of `__getitems__` to a collate function. `gngraph.data.batches` takes `x` and `y`
    as they are; torch's default collate iterates, so a plain DataLoader works as well.

    Attributes:
        x: float32 [B, C, H, W] or [B, F].
        y: int64 [B] or float32 [B, K].
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleBatch: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleBatch:
        if isinstance(index, slice):
            return SampleBatch(self.x[index], self.y[index])
        return self.x[index], self.y[index]


class SampleDataset(Dataset[Sample]):
    """A map-style data set of (x, y) whose labels are known without reading the samples.

    Attributes:
        workers: processes worth starting to read it; 0 where reading costs next to nothing.
    """

    workers: int = 0

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """All labels: int64 [N] class indices, or float32 [N, K] targets of a regression."""

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> SampleBatch:
        """Returns many samples at once, in the order of `indices`."""

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")  # iteration over a data set ends by it
        return self.__getitems__([index])[0]

    def __len__(self) -> int:
        return len(self.labels)


class ArrayDataset(SampleDataset):
    """Samples held in memory as they were stored; a batch is gathered, converted and normalised in one go.

    Attributes:
        raw: uint8 or float32 [N, C', H', W'] or [N, F].
        preprocess: applied to each batch on the way out.

    Args:
        labels: [N, ...], one row a sample: int64 for classes.
    """

    def __init__(self, raw: Tensor, labels: Tensor, preprocess: Preparation) -> None:
        self.raw = raw
        self.preprocess = preprocess
        self._labels = labels

    @property
    def labels(self) -> Tensor:
        """As they were given."""
        return self._labels

    def __getitems__(self, indices: Sequence[int]) -> SampleBatch:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return SampleBatch(self.preprocess(self.raw[chosen]), self._labels[chosen])


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for training: samples, class names, and how raw samples were prepared.

    Attributes:
        name: what the user asked for.
        train: training samples; the learn, judge and report splits are drawn from it (`make_splits`).
        test: held-out samples, for reporting only.
        classes: name of each class; empty for a regression.
        preprocess: what stands between a stored sample and a network input.
        augment: random change applied to training batches; None where none is known to be harmless.
    """

    name: str
    train: SampleDataset
    test: SampleDataset
    classes: tuple[str, ...]
    preprocess: Preparation
    augment: Augment | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input: (C, H, W) or (F,)."""
        return self.preprocess.shape

    @property
    def outputs(self) -> int:
        """Number of outputs that a network for this data has: classes, or targets of a regression."""
        return len(self.classes) or int(self.train.labels.shape[1])
